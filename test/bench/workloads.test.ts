// The reference workloads: everybody starts from the same numbers, and ours computes what float64 and PyTorch compute.
import { afterAll, describe, expect, it } from 'vitest';
import { probe } from '../../bench/probe.ts';
import { exactProduct } from '../../bench/verdict.ts';
import { batch, build, model, numbers, rate, type Sizes, tokens } from '../../bench/workloads.ts';
import type { Engine } from '../../core/engine.ts';
import { float64 } from '../../core/engines/float64.ts';
import { simd } from '../../core/engines/simd.ts';
import { grad } from '../../core/grad.ts';
import { matmul } from '../../core/ops/matmul.ts';
import { input, leaf, stateOf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { nextToken } from '../../nn/losses.ts';
import { trainable } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';

/** What bench/peers/common.mjs exports: plain JavaScript, so its types are said here. */
interface Common {
  readonly hash: (i: number, seed: number) => number;
  readonly numbers: (n: number, seed: number, offset?: number) => Float32Array;
  readonly weights: (s: Sizes, mode: string) => { name: string; shape: number[]; trained: boolean; data: Float32Array }[];
  readonly tokens: (s: Sizes) => { ids: Int32Array; targets: Int32Array };
  readonly workloads: Record<string, { sizes: Sizes; mode: string }>;
}
const common = (await import(new URL('../../bench/peers/common.mjs', import.meta.url).href)) as Common;
const fast = await simd({ threads: 1 });
afterAll(() => fast.close());

const SMALL: Sizes = { V: 16, d: 16, L: 2, H: 2, F: 32, T: 6, B: 2 };

describe('the numbers of the workloads', () => {
  it('are those of the shared definition', () => {
    const pairs = [
      [0, 1, 3298878556],
      [1, 1, 39170614],
      [12345, 7, 455714477],
      [4294967, 7777, 3295641864],
    ] as const;
    for (const [i, seed, value] of pairs) expect(common.hash(i, seed)).toBe(value);
    for (const make of [common.numbers, numbers]) {
      expect([...make(3, 1)]).toEqual([0.018551137298345566, -0.033968888223171234, -0.017584914341568947]);
      expect([...make(2, 5, 1)]).toEqual([0.9957281947135925, 0.9665963053703308]);
    }
  });
  it('are the same for the peers: every weight of W2 by place, and every token', () => {
    const { sizes, mode } = common.workloads.W2!;
    const all = common.weights(sizes, mode);
    expect(all.length).toBe(60);
    expect(all.at(-1)).toMatchObject({ name: '3.lora.B', shape: [768, 8], trained: true });
    expect([...all.at(-1)!.data.slice(0, 2)]).toEqual([-0.028070246800780296, 0.015637604519724846]);
    expect(all.reduce((n, w) => n + w.data.reduce((a, x) => a + x, 0), 0)).toBeCloseTo(2246.4720893252083, 9);
    const [ours, theirs] = [batch('W2'), common.tokens(sizes)];
    expect([...theirs.ids.slice(126, 131)]).toEqual([125, 357, 151, 465, 176]);
    expect([...ours.ids.data]).toEqual([...theirs.ids]);
    expect([...ours.targets.data]).toEqual([...theirs.targets]);
  });
});

describe('workload W2', () => {
  it.each(['lora', 'full'] as const)('scaled down, %s: loss and gradients of simd are those of float64', async (mode) => {
    const m = build(SMALL, mode);
    const b = tokens(SMALL);
    const ids = input('ids', b.ids.shape);
    const loss = nextToken(m, { ids, targets: input('targets', b.targets.shape) }, context(SMALL.T));
    const wrt = [...trainable(m)];
    const grads = grad(
      loss,
      wrt.map(([p]) => stateOf(p)),
    );
    const outputs: Record<string, Tensor> = { loss, ...Object.fromEntries(wrt.map(([, path], k) => [path, grads[k]!])) };
    const run = async (e: Engine) => (await e.compile(e.store(), { outputs })).run({ ids: b.ids.data, targets: b.targets.data });
    const exact = float64();
    const [want, got] = [await run(exact), await run(fast)];
    expect(wrt.length).toBe(mode === 'lora' ? 2 * SMALL.L : 4 + 12 * SMALL.L);
    expect(got.loss![0]).toBeCloseTo(want.loss![0]!, 5);
    for (const [, path] of wrt) {
      const [w, g] = [want[path]!, got[path]!];
      const scale = Math.max(...Array.from(w, Math.abs));
      expect(scale, path).toBeGreaterThan(0);
      for (let i = 0; i < w.length; i++) expect(Math.abs(g[i]! - w[i]!), `${path}[${i}]`).toBeLessThan(2e-5 * scale);
    }
    await exact.close();
  });
  it('at full size: the first losses are PyTorch’s', async () => {
    await using t = await trainer(model('W2'), {
      engine: fast,
      loss: nextToken,
      optimizer: adamw({ lr: rate.lora, weightDecay: 0.01 }),
    });
    const b = batch('W2');
    for (const want of [6.2997355, 6.2496667, 6.1953192]) expect(Math.abs((await t.step(b)).loss - want)).toBeLessThan(1e-4); // PyTorch 2.15
  });
  it('on the last block only: there is one adapter, there', () => {
    const last = build(SMALL, 'lora', true);
    expect([...trainable(last).values()]).toEqual(['trunk.blocks.1.attn.qkv.lora.A', 'trunk.blocks.1.attn.qkv.lora.B']);
  });
});

describe('workload W1', () => {
  it.each(['24 nn', '24 nt', '24 tn', '24 tt'])('%s: the element that is compared is the exact one', async (name) => {
    const [a, b] = [leaf(numbers(576, 1), [24, 24]), leaf(numbers(576, 2), [24, 24])];
    const p = await probe(fast, [matmul(name[3] === 't' ? a.T : a, name[4] === 't' ? b.T : b)], [3, 5]);
    const { value, magnitude } = exactProduct(name);
    expect(Math.abs((await p.run())[0]! - value)).toBeLessThan(1e-6 * magnitude);
    expect(p.flops).toBe(2 * 24 ** 3);
    p.close();
  });
});
