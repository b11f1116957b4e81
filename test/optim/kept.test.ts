// Optimizers whose states are kept elsewhere: paged ones take the same steps bit for bit, 8-bit ones are bytes and stay near.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { codebook, dynamicValues } from '../../core/codebook.ts';
import { float64 } from '../../core/engines/float64.ts';
import { simd } from '../../core/engines/simd.ts';
import { rng } from '../../core/rng.ts';
import type { Model } from '../../nn/layer.ts';
import { nextToken } from '../../nn/losses.ts';
import { adam } from '../../optim/adam.ts';
import { adamw } from '../../optim/adamw.ts';
import { adamw8bit, eightBits } from '../../optim/adamw8bit.ts';
import { clipByNorm } from '../../optim/clip.ts';
import { mezo } from '../../optim/mezo.ts';
import type { Optimizer } from '../../optim/optimizer.ts';
import { type PageFile, paged } from '../../optim/paged.ts';
import { sgd } from '../../optim/sgd.ts';
import { type TrainerOptions, trainer } from '../../optim/trainer.ts';
import type { Transform } from '../../peft/method.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { sora } from '../../peft/reparameterized/sora.ts';
import { vera } from '../../peft/reparameterized/vera.ts';
import { at, bits, counting, frozen, gpt, pull, type Text, vector, vectorTrainer } from './tiny.ts';

/** Pages in memory that count as a disk. Fails from write number `failing` on. */
const disk = (failing = Number.POSITIVE_INFINITY) => {
  const pages = new Map<number, Uint8Array>();
  const seen = { writes: 0, reads: 0, closed: 0 };
  const spill = async (): Promise<PageFile> => ({
    write: async (n, from) => {
      if (++seen.writes > failing) throw new Error('the disk is full');
      pages.set(n, from.slice());
    },
    read: async (n, into) => {
      seen.reads++;
      into.set(pages.get(n)!);
    },
    close: async () => void seen.closed++,
  });
  return { spill, seen };
};
const method = lora({ rank: 2, dropout: 0.3 });
const start = (optimizer: Optimizer, more: Partial<TrainerOptions<Model, Text>> = {}, model = method(frozen())) =>
  trainer<Model, Text>(model, { engine: float64(), loss: nextToken, optimizer, clip: clipByNorm(0.5), total: 5, seed: 3, ...more });
const portion = (k: number) => (k % 3 === 2 ? [counting(k), counting(k + 50)] : counting(k));
const optimizers = {
  adamw: adamw({ lr: 0.05 }),
  adam: adam({ lr: 0.02, weightDecay: 0.1 }),
  momentum: sgd({ lr: 0.1, momentum: 0.9 }),
  sgd: sgd({ lr: 0.1 }),
};

describe('paged', () => {
  test('for any page size and any budget, the same losses, values and states bit for bit; never more memory than the budget (seeded)', () =>
    fc.assert(
      fc.asyncProperty(
        fc.constantFrom<keyof typeof optimizers>('adamw', 'adam', 'momentum', 'sgd'),
        fc.integer({ min: 1, max: 700 }),
        fc.integer({ min: 1, max: 12 }),
        fc.boolean(),
        async (name, page, pages, clips) => {
          const d = disk();
          const more = clips ? {} : { clip: clipByNorm(1e9) };
          const budget = page * pages;
          await using plain = await start(optimizers[name], more);
          await using own = await start(paged(optimizers[name], { page, budget, spill: d.spill }), more);
          for (let k = 0; k < 3; k++) {
            const [a, b] = [await plain.step(portion(k)), await own.step(portion(k))];
            expect(b).toEqual(a);
            expect(own.shelf!.resident).toBeLessThanOrEqual(budget);
          }
          expect(bits(await own.state())).toEqual(bits(await plain.state()));
          expect(own.shelf!.outs).toBe(d.seen.writes);
          if (own.shelf!.stored > budget) expect(d.seen.writes).toBeGreaterThan(0);
          else expect(d.seen).toEqual({ writes: 0, reads: 0, closed: 0 });
        },
      ),
      { numRuns: 2 },
    ));
  test('on the simd engine too', async () => {
    await using engine = await simd({ threads: 1 });
    await using plain = await start(adamw({ lr: 0.05 }), { engine });
    await using own = await start(paged(adamw({ lr: 0.05 }), { page: 256, budget: 1024, spill: disk().spill }), { engine });
    for (let k = 0; k < 3; k++) expect(await own.step(portion(k))).toEqual(await plain.step(portion(k)));
    expect(bits(await own.state())).toEqual(bits(await plain.state()));
    expect(own.shelf!.stored).toBe(2 * 4 * 4 * (2 * 8 + 8 * 2)); // two averages of A and B at four places, in float32
  });
  test('a page moves at most twice in and twice out in every step', async () => {
    const d = disk();
    await using t = await start(paged(adamw({ lr: 0.05 }), { page: 128, budget: 2048, spill: d.spill }), {}, lora({ rank: 2 })(gpt())); // all of it trained: dozens of groups of parameters
    await t.step(counting(1));
    const all = Math.ceil(t.shelf!.stored / 128);
    expect(all).toBeGreaterThan(100);
    for (let k = 0; k < 2; k++) {
      const before = { ...d.seen };
      await t.step(counting(1));
      expect(d.seen.reads - before.reads).toBeLessThanOrEqual(2 * all); // fetched, and met again when its group's first pages are put back
      expect(d.seen.writes - before.writes).toBeLessThanOrEqual(2 * all);
      expect(t.shelf!.ins).toBe(d.seen.reads);
    }
  });
  test('states are those of the optimizer itself: saved by one, loaded by the other', async () => {
    const own = () => start(paged(adamw({ lr: 0.05 }), { page: 64, budget: 64, spill: disk().spill }));
    const whole = await start(adamw({ lr: 0.05 }));
    const [a, b, c] = [await own(), await start(adamw({ lr: 0.05 })), await own()];
    for (let k = 0; k < 4; k++) await whole.step(portion(k));
    for (let k = 0; k < 2; k++) await a.step(portion(k));
    await b.load(await a.state());
    await b.step(portion(2));
    await c.load(await b.state());
    await c.step(portion(3));
    expect(bits(await c.state())).toEqual(bits(await whole.state()));
    const s = await a.state();
    const [path] = Object.keys(s.moments) as [string];
    const m = s.moments[path]!.m!;
    await expect(c.load({ ...s, moments: { ...s.moments, [path]: { m } } })).rejects.toThrow(`v of ${path} is missing`);
    await expect(
      c.load({ ...s, moments: { ...s.moments, [path]: { m, v: { ...m, data: new Uint8Array(m.data.length) } } } }),
    ).rejects.toThrow('floats are expected');
    expect(bits(await c.state())).toEqual(bits(await whole.state()));
  });
  // test:long has all methods
  test.each<readonly [string, Transform]>([
    ['sora', sora({ rank: 3, xi: 0.02 })],
    ['vera', vera({ rank: 3 })],
  ])('methods with hooks and shared tensors: %s', async (_, transform) => {
    const [plain, own] = [
      await start(adamw({ lr: 0.05 }), {}, transform(frozen())),
      await start(paged(adamw({ lr: 0.05 }), { page: 100, budget: 300, spill: disk().spill }), {}, transform(frozen())),
    ];
    for (let k = 0; k < 4; k++) expect(await own.step(portion(k))).toEqual(await plain.step(portion(k)));
    expect(bits(await own.state())).toEqual(bits(await plain.state()));
  });
  test('a disk that fails: the step says so, no other is taken until a state is loaded, and then all is as if it had not failed', async () => {
    const d = disk(40);
    await using plain = await start(adamw({ lr: 0.05 }));
    const own = await start(paged(adamw({ lr: 0.05 }), { page: 64, budget: 128, spill: d.spill }));
    let good = await own.state();
    let failed: unknown = null;
    while (failed === null) {
      const k = own.progress.step;
      await own.step(portion(k)).then(
        async () => {
          good = await own.state();
          await plain.step(portion(k));
        },
        (e: unknown) => {
          failed = e;
        },
      );
    }
    expect(String(failed)).toContain('cut off after some of its parameters had changed');
    await expect(own.step(counting(1))).rejects.toThrow('load a saved state');
    await own[Symbol.asyncDispose]();
    expect(d.seen.closed).toBe(1);
    await using again = await start(paged(adamw({ lr: 0.05 }), { page: 64, budget: 128, spill: disk().spill }));
    await again.load(good);
    const k = again.progress.step;
    expect(await again.step(portion(k))).toEqual(await plain.step(portion(k)));
  });
  test('refusals', async () => {
    const { spill } = disk();
    expect(() => paged(adamw(), { budget: 10, page: 20, spill })).toThrow('no room for a page of 20');
    expect(() => paged(adamw(), { budget: 10, page: 0, spill })).toThrow('a whole number of bytes from 1');
    const kept = paged(adamw(), { budget: 64, page: 64, spill });
    await expect(mezo<Model, Text>(method(frozen()), { engine: float64(), loss: nextToken, optimizer: kept })).rejects.toThrow(
      'which only trainer() handles',
    );
  });
});

describe('8-bit AdamW', () => {
  test('the unsigned map: 256 ascending values from 0 to 1, each half as far from the next as the signed ones', () => {
    const [signed, unsigned] = [dynamicValues(true), dynamicValues(false)];
    for (const map of [signed, unsigned]) expect([map.length, new Set(map.map(Math.fround)).size, map.at(-1)]).toEqual([256, 256, 1]);
    expect([signed[127], unsigned[0]]).toEqual([0, 0]);
    expect(unsigned).toEqual([...unsigned].sort((a, b) => a - b));
    const widest = (m: number[]): number => Math.max(...m.slice(1).map((v, k) => v - m[k]!));
    expect(widest(signed.filter((v) => v >= 0))).toBeCloseTo(0.9 / 64, 12);
    expect(widest(unsigned)).toBeCloseTo(0.9 / 128, 12);
  });
  test('a number is off by at most half a gap of its block; the largest positive one is exact; negative ones stay negative; v is never below 0 (seeded)', () =>
    fc.assert(
      fc.property(
        fc.integer(),
        fc.integer({ min: 1, max: 700 }),
        fc.constantFrom(7, 256),
        fc.integer({ min: -20, max: 20 }),
        (seed, n, block, e) => {
          const codec = eightBits({ block, minSize: 0 }, new Set(['v']));
          const x = rng(seed).normal(n, 2 ** e);
          const back = codec.decode(codec.encode(x, 'm'), 'm');
          const values = codebook(dynamicValues(true)).values;
          for (let i = 0; i < n; i++) {
            const own = x.subarray(i - (i % block), i - (i % block) + block);
            const c = own.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
            const above = values.findIndex((v) => v >= x[i]! / c);
            const gap = above <= 0 ? 1 + values[0]! : (values[above]! - values[above - 1]!) / 2;
            const smallest = x[i]! < 0 && back[i]! / c > -1e-6 ? 1e-6 : 0; // the sign was kept at the price of one code
            const near = Math.abs(back[i]! - x[i]!) <= c * (gap + smallest + 2 ** -22);
            if (!near || (x[i] === c && back[i] !== c) || (x[i]! < 0 && !(back[i]! < 0))) expect([i, x[i], back[i]]).toBe('kept');
          }
          const v = x.map((a) => a * a);
          const [w, most] = [codec.decode(codec.encode(v, 'v'), 'v'), 0.9 / 256 + 2 ** -22];
          for (let i = 0; i < n; i++) {
            const c = v.subarray(i - (i % block), i - (i % block) + block).reduce((a, b) => Math.max(a, b), 0);
            if (!(w[i]! >= 0 && Math.abs(w[i]! - v[i]!) <= c * most) || (v[i] === c && w[i] !== c)) expect([i, v[i], w[i]]).toBe('kept');
          }
        },
      ),
      { numRuns: 25 },
    ));
  const model = () => lora({ rank: 4, where: ['q', 'v'] })(frozen());
  const small = (options = {}) => adamw8bit({ lr: 0.05, minSize: 0, ...options });
  test('states are bytes: two per number and eight per block, in memory and in a saved state; small parameters stay in 32 bits', async () => {
    const t = await start(small(), {}, model());
    const n = 4 * 2 * 4 * 8; // A and B, 32 numbers each, at four places
    expect(t.shelf).toEqual({ stored: 2 * n + 8 * 8, resident: 2 * n + 8 * 8, ins: 0, outs: 0 });
    await t.step(counting(1));
    const own = (await t.state()).moments['trunk.blocks.0.attn.q.lora.A']!;
    expect(Object.keys(own)).toEqual(['m.codes', 'm.scales', 'v.codes', 'v.scales']);
    expect(own['m.codes']!.data).toBeInstanceOf(Uint8Array);
    expect([own['m.codes']!.shape, own['m.scales']!.shape]).toEqual([[4, 8], [1]]);
    const wide = await start(small({ minSize: 33 }), {}, model());
    expect(bits(await wide.state())).toEqual({
      ...bits(await (await start(adamw({ lr: 0.05 }), {}, model())).state()),
      at: [0, 3, 'adamw8bit'],
    });
  });
  test('one parameter, by hand: the step uses the averages before they are rounded', async () => {
    const c = { lr: 0.1, weightDecay: 0, beta1: 0.9, beta2: 0.99, eps: 1e-8 };
    const t = await vectorTrainer(vector([1, -2, 3]), adamw8bit({ ...c, minSize: 0 }));
    const codec = eightBits({ block: 256, minSize: 0 }, new Set(['v']));
    const theta = [1, -2, 3];
    let [m, v]: [ArrayLike<number>, ArrayLike<number>] = [
      [0, 0, 0],
      [0, 0, 0],
    ];
    for (let step = 1; step <= 4; step++) {
      const g = [0.5 * step, -1, 0.01];
      await t.step(pull(g));
      const [m2, v2] = [g.map((x, i) => c.beta1 * m[i]! + (1 - c.beta1) * x), g.map((x, i) => c.beta2 * v[i]! + (1 - c.beta2) * x * x)];
      for (let i = 0; i < 3; i++)
        theta[i]! -= ((c.lr / (1 - c.beta1 ** step)) * m2[i]!) / (Math.sqrt(v2[i]!) / Math.sqrt(1 - c.beta2 ** step) + c.eps);
      [m, v] = [codec.decode(codec.encode(Float64Array.from(m2), 'm'), 'm'), codec.decode(codec.encode(Float64Array.from(v2), 'v'), 'v')];
      for (const [i, x] of (await at(t)).entries()) expect(x).toBeCloseTo(theta[i]!, 10);
    }
  });
  test('resuming is exact; it learns about as AdamW does; paged, it is itself bit for bit', async () => {
    const whole = await start(small(), {}, model());
    const losses: number[] = [];
    for (let k = 0; k < 5; k++) losses.push((await whole.step(counting(k))).loss);
    const first = await start(small(), {}, model());
    for (let k = 0; k < 2; k++) await first.step(counting(k));
    const second = await start(paged(small(), { page: 50, budget: 100, spill: disk().spill }), {}, model());
    await second.load(await first.state());
    for (let k = 2; k < 5; k++) expect((await second.step(counting(k))).loss).toBe(losses[k]);
    expect(bits(await second.state())).toEqual(bits(await whole.state()));
    const wide = await start(adamw({ lr: 0.05 }), {}, model());
    for (let k = 0; k < 5; k++) await wide.step(counting(k));
    const evaluate = [await whole.evaluate([counting(9)]), await wide.evaluate([counting(9)])];
    expect(Math.abs(evaluate[0]! - evaluate[1]!)).toBeLessThan(0.1 * evaluate[1]!);
    expect(() => adamw8bit({ block: 0 })).toThrow('block must be a whole number from 1');
  });
});
