// The simd engine as a whole: threads that change nothing, limits that say what to do, and what happens when things break.
import type { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import type { Engine } from '../../core/engine.ts';
import { float64 } from '../../core/engines/float64.ts';
import { simd } from '../../core/engines/simd.ts';
import { sum } from '../../core/ops/reduce.ts';
import { rng } from '../../core/rng.ts';
import { arena } from '../../core/simd/arena.ts';
import { sources } from '../../core/simd/binary.ts';
import { sourceHash } from '../../core/simd/build.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { decoder, gpt2 } from '../../nn/decoder.ts';
import { nextToken } from '../../nn/losses.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';

const T = 9;
const ids = Array.from({ length: 2 * T }, (_, i) => (i * 7) % 11);
/** Losses of four full steps of a small transformer. */
async function losses(engine: Engine): Promise<number[]> {
  const model = decoder(gpt2({ vocabulary: 11, width: 24, layers: 2, heads: 3, positions: 16 }), rng(3));
  await using t = await trainer(model, { engine, loss: nextToken, optimizer: adamw({ lr: 1e-2 }) });
  const out: number[] = [];
  const batch = { ids: { data: ids, shape: [2, T] }, targets: { data: ids.map((i) => (i + 3) % 11), shape: [2, T] } };
  for (let k = 0; k < 4; k++) out.push((await t.step(batch)).loss);
  return out;
}

describe('the simd engine', () => {
  it('gives the same bits whatever the number of threads', async () => {
    const all: number[][] = [];
    for (const threads of [1, 2, 3]) {
      await using engine = await simd({ threads });
      all.push(await losses(engine));
    }
    expect(all[1]).toEqual(all[0]);
    expect(all[2]).toEqual(all[0]);
  });

  it('trains as float64 does, with and without fused multiply-add', async () => {
    await using oracle = float64();
    const want = await losses(oracle);
    for (const relaxed of [true, false]) {
      await using engine = await simd({ threads: 1, relaxed });
      for (const [k, l] of (await losses(engine)).entries()) expect(Math.abs(l - want[k]!)).toBeLessThan(2e-5);
    }
  });

  it('reuses its memory: a step allocates nothing after the first ones', async () => {
    await using engine = await simd({ threads: 1 });
    const model = decoder(gpt2({ vocabulary: 11, width: 16, layers: 1, heads: 2, positions: 16 }), rng(3));
    await using t = await trainer(model, { engine, loss: nextToken, optimizer: adamw() });
    const batch = { ids: { data: ids, shape: [2, T] }, targets: { data: ids, shape: [2, T] } };
    for (let k = 0; k < 3; k++) await t.step(batch);
    const held = engine.memory?.();
    expect(held).toBeGreaterThan(0);
    for (let k = 0; k < 20; k++) await t.step(batch);
    expect(engine.memory?.()).toBe(held);
  });

  it('refuses more memory than it may hold, says how much and what to do, and goes on', async () => {
    await using engine = await simd({ threads: 1, memoryLimit: 16 * 2 ** 20 });
    const big = (n: number): Tensor =>
      sum(
        leaf(new Float32Array(n), [n])
          .mul(2)
          .reshape(1000, n / 1000)
          .matmul(leaf(new Float32Array(n), [n]).reshape(n / 1000, 1000)),
      );
    await expect(engine.read(big(4e6))).rejects.toThrow(
      /simd engine: .* MiB more were needed, but .* of at most 16\.0 MiB are in use.*Make the batch or the sequence smaller/,
    );
    expect(await engine.item(sum(leaf([1, 2, 3], [3])))).toBe(6);
  });

  it('reports a worker that died, instead of waiting for it', async () => {
    const born: Worker[] = [];
    const note = (w: Worker): void => void born.push(w);
    process.on('worker', note);
    const engine = await simd({ threads: 2 });
    process.off('worker', note);
    await born[0]!.terminate();
    await new Promise((done) => setTimeout(done, 20));
    await expect(engine.item(sum(leaf([1, 2, 3], [3])))).rejects.toThrow(/a worker thread died .*open a new engine/);
    await engine.close();
  });

  it('refuses an impossible number of threads', async () => {
    await expect(simd({ threads: 0 })).rejects.toThrow(/threads must be a whole number from 1, got 0/);
  });

  it('ships kernels built from these sources', async () => {
    expect(sources, 'core/simd/assembly changed: npm run build:simd').toBe(await sourceHash());
  });
});

describe('the arena', () => {
  it('hands out what was given back, and never overlapping blocks', () => {
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 64, shared: true });
    const a = arena(memory, 1000, 64 * 65536);
    const r = rng(1);
    const live: { at: number; bytes: number }[] = [];
    for (let k = 0; k < 400; k++) {
      if (live.length > 0 && r.next() < 0.45) a.free(live.splice(r.below(live.length), 1)[0]!);
      else {
        const want = 1 + r.below(4000);
        const b = a.alloc(want);
        expect(b.bytes).toBeGreaterThanOrEqual(want + 16);
        for (const o of live) expect(b.at + b.bytes <= o.at || o.at + o.bytes <= b.at).toBe(true);
        live.push(b);
      }
    }
    const held = a.held;
    for (const b of live) a.free(b);
    expect(a.used).toBe(0);
    for (const b of live) a.alloc(b.bytes - 16);
    expect(a.held).toBe(held);
  });
});
