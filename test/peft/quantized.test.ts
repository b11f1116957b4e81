// LoftQ, QA-LoRA, QDoRA and QPiSSA: what their papers claim of weights, and that a merged QA-LoRA is still whole numbers.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { context, quiet } from '../../nn/context.ts';
import { realize } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { tensors, trainable } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { clipByNorm } from '../../optim/clip.ts';
import { trainer } from '../../optim/trainer.ts';
import { product } from '../../peft/linalg.ts';
import { detach, merge } from '../../peft/merge.ts';
import type { Transform } from '../../peft/method.ts';
import { dora } from '../../peft/reparameterized/dora.ts';
import { loftq } from '../../peft/reparameterized/loftq.ts';
import { loftqModel } from '../../peft/reparameterized/loftqModel.ts';
import { alternate } from '../../peft/reparameterized/loftqSplit.ts';
import { pissa } from '../../peft/reparameterized/pissa.ts';
import { qaLora } from '../../peft/reparameterized/qaLora.ts';
import { qdora, qlora, qpissa } from '../../peft/reparameterized/qlora.ts';
import { qloraRecipe } from '../../peft/reparameterized/qloraRecipe.ts';
import { quantizedQaLora } from '../../peft/reparameterized/quantizedQaLora.ts';
import { int2, int4 } from '../../quant/affine.ts';
import { int8 } from '../../quant/int8.ts';
import { nf4 } from '../../quant/nf4.ts';
import { inBlocks, packedPaths, quantize, residentBytes, type Scheme, unpacked } from '../../quant/quantize.ts';
import { gpt2Network, llamaNetwork, numbersOf, perturb, run } from '../laws/models.ts';
import { affine, apart, flat, layerAt, own, plus, random, rowsOf, scaled } from './naive.ts';
import { batchOf, trainerOn } from './train.ts';

const engine = float64();
const net = gpt2Network(3);
const Q = 'trunk.blocks.0.attn.q';
const norm = (a: ArrayLike<number>, b: ArrayLike<number>): number => Math.hypot(...Array.from(a, (v, k) => v - b[k]!));
/** What a model holds under names of packed parts, by path. */
const parts = (m: Model, name: 'codes' | 'scales'): string[] =>
  [...tensors(m)].flatMap(({ path, tensor: { source: s } }) =>
    path.endsWith(`.weight.${name}`) && s.kind === 'leaf' ? [`${path} ${s.data.join()}`] : [],
  );
const schemes: readonly Scheme[] = [nf4({ block: 8 }), int4({ group: 8 }), int2({ group: 8 }), int8({ block: 8 })];

describe('loftq', () => {
  const weights = fc.record({
    out: fc.integer({ min: 2, max: 12 }),
    into: fc.integer({ min: 2, max: 12 }),
    rank: fc.integer({ min: 1, max: 2 }),
    scheme: fc.constantFrom(...schemes),
    seed: fc.integer(),
  });
  it('‖W − Q − BA‖ is no more than quantisation alone leaves, more turns and higher ranks never hurt, rank ≤ r (seeded)', () =>
    fc.assert(
      fc.property(weights, ({ out, into, rank, scheme, seed }) => {
        const w = rng(seed).normal(out * into);
        const at = (iterations: number, r = rank) => alternate(w, out, into, { rank: r, scheme, iterations, power: null }, rng(0));
        const error = (s: ReturnType<typeof at>, r = rank): number => {
          const low = product(
            s.change.u.map((v, k) => v * s.change.s[k % r]!),
            s.change.vt,
            out,
            r,
            into,
          );
          return norm(
            w,
            low.map((v, k) => v + scheme.round(s.kept, [out, into])[k]!),
          );
        };
        const alone = norm(w, scheme.round(w, [out, into]));
        const [one, five] = [at(1), at(5)];
        expect(one.errors[0]).toBeLessThanOrEqual(alone * (1 + 1e-9));
        expect(Math.min(...five.errors)).toBeLessThanOrEqual(one.errors[0]!);
        expect(error(five)).toBeCloseTo(Math.min(...five.errors), 5); // Q is float32
        expect([one.change.s.length, five.errors.length]).toEqual([rank, 5]);
        const high = Math.min(rank + 1, out, into);
        expect(at(1, high).errors[0]).toBeLessThanOrEqual(one.errors[0]! * (1 + 1e-9));
      }),
      { numRuns: 40 },
    ));
  it('a turn may be worse than the one before: the best is kept', () => {
    const found = Array.from({ length: 40 }, (_, seed) =>
      alternate(rng(seed).normal(48), 6, 8, { rank: 1, scheme: int2({ group: 8 }), iterations: 5, power: null }, rng(0)),
    );
    expect(found.some(({ errors }) => errors.at(-1)! > Math.min(...errors))).toBe(true);
  });
  it('y = Q x + b + s·B A x for any α; a randomised factorisation does nearly as well; NaN is refused', async () => {
    for (const alpha of [2, 3]) {
      const model = loftq({ rank: 2, alpha, scheme: nf4({ block: 8 }), where: Q })(net.base);
      const p = await own(engine, await realize(unpacked(model), engine), Q);
      const low = product(Float64Array.from(flat(p['loftq.B']!)), Float64Array.from(flat(p['loftq.A']!)), 8, 2, 8).map(
        (v) => (v * alpha) / 2,
      );
      const w = flat((await own(engine, net.base, Q)).weight!);
      const { errors } = alternate(Float32Array.from(w), 8, 8, { rank: 2, scheme: nf4({ block: 8 }), iterations: 5, power: null }, rng(0));
      expect(
        norm(
          w,
          flat(p.weight!).map((v, k) => v + low[k]!),
        ),
      ).toBeCloseTo(Math.min(...errors), 5);
      const x = random(1, [1, 3, 8]);
      const got = await engine.read(layerAt(model, 'linear', Q)(x, context(3, { draw: quiet })));
      const wanted = affine(
        rowsOf(await engine.read(x), 8),
        rowsOf(
          flat(p.weight!).map((v, k) => v + low[k]!),
          8,
        ),
        flat(p.bias!),
      );
      expect(apart(got, flat(wanted))).toBeLessThan(1e-10);
    }
    const c = { rank: 2, scheme: nf4({ block: 8 }), iterations: 3 };
    const w = rng(9).normal(24 * 16);
    const [exact, random2] = [null, 4].map((power) => Math.min(...alternate(w, 24, 16, { ...c, power }, rng(1)).errors));
    expect(random2).toBeLessThan(1.05 * exact!);
    expect(() => alternate(w.with(3, Number.NaN), 24, 16, { ...c, power: null }, rng(0))).toThrow('number 3');
  });
  it('starts with weights nearer to the base’s than quantisation alone, with every scheme; loftqModel is the same network, with nothing of the old weights', async () => {
    const weights = async (m: Model): Promise<number[]> => {
      const merged = await realize(unpacked(merge(m)), engine);
      return [...tensors(merged)].flatMap(({ path, tensor: { source: s } }) => (inBlocks(path) && s.kind === 'leaf' ? [...s.data] : []));
    };
    const base = await weights(net.base);
    for (const scheme of schemes.slice(0, 3)) {
      const [alone, both] = [qlora({ rank: 2, scheme })(net.base), loftq({ rank: 2, alpha: 2, scheme, where: inBlocks })(net.base)];
      expect(norm(await weights(both), base)).toBeLessThan(norm(await weights(alone), base));
      const light = loftqModel(net.base, { rank: 2, alpha: 2, scheme });
      expect(await numbersOf(engine, net, light)).toEqual(await numbersOf(engine, net, both));
      expect(residentBytes(light)).toBe(residentBytes(both));
      expect(packedPaths(detach(light))).toEqual(packedPaths(light));
      expect(packedPaths(detach(both))).toEqual([]); // there the old weights are kept
    }
    expect(() => loftqModel(quantize(net.base, inBlocks, nf4()), {})).toThrow('not frozen plain numbers');
  });
});

describe('qaLora', () => {
  it('y = W x + b + s·B A pool(x), pool the means of groups; as PEFT has it, times in/g', async () => {
    for (const [pool, k] of [
      ['mean', 1],
      ['peft', 2],
    ] as const) {
      const model = perturb(qaLora({ rank: 2, alpha: 3, group: 4, pool, where: Q })(net.base), 5);
      const p = await own(engine, model, Q);
      const x = rowsOf(await engine.read(random(2, [3, 8])), 8);
      const means = x.map((row) => [0, 4].map((j) => row.slice(j, j + 4).reduce((a, b) => a + b) / 4));
      const y = plus(
        affine(x, p.weight!, flat(p.bias!)),
        scaled(affine(affine(means, p['qaLora.A']!), p['qaLora.B']!), () => 1.5 * k),
      );
      const got = await engine.read(layerAt(model, 'linear', Q)(random(2, [3, 8]), context(3, { draw: quiet })));
      expect(apart(got, flat(y))).toBeLessThan(1e-12);
    }
  });
  it('merges into zero points: the same outputs, the same codes and scales, still packed, and nothing attached (seeded)', () =>
    fc.assert(
      fc.asyncProperty(
        fc.integer(),
        fc.constantFrom<readonly [Scheme, number]>([int4({ group: 4 }), 4], [int2({ group: 2 }), 4], [int4({ group: 4 }), 2]),
        fc.constantFrom<'mean' | 'peft'>('mean', 'peft'),
        async (seed, [scheme, group], pool) => {
          const fits = group % 4 === 0 || scheme.name === 'int2';
          const model = perturb(quantizedQaLora({ rank: 2, alpha: 3, group, scheme, pool })(net.base), seed);
          const merged = await realize(merge(model), engine);
          expect(apart(await numbersOf(engine, net, merged), await numbersOf(engine, net, model))).toBeLessThan(1e-10);
          expect(packedPaths(merged)).toEqual(fits ? packedPaths(model) : []); // groups of the weight that straddle those of the adapter
          if (fits) for (const name of ['codes', 'scales'] as const) expect(parts(merged, name)).toEqual(parts(model, name));
          expect([...trainable(merged)]).toHaveLength(0);
        },
      ),
      { numRuns: 4 },
    ));
  it('trains on a packed base, whose bytes stay; a group that does not divide is refused', async () => {
    const model = quantizedQaLora({ rank: 2, group: 4 })(net.base);
    const before = parts(model, 'codes');
    expect(before).toHaveLength(packedPaths(model).length);
    await using t = await trainerOn(engine, net, model);
    const losses: number[] = [];
    for (let k = 0; k < 6; k++) losses.push((await t.step(batchOf(net))).loss);
    expect(losses.at(-1)).toBeLessThan(losses[0]!);
    expect(parts(await t.model(), 'codes')).toEqual(before);
    expect(() => qaLora({ group: 3 })(net.base)).toThrow('not whole groups of 3');
  });
  it('count: r(in/g + out)', () => {
    const model = qaLora({ rank: 2, group: 4, where: Q })(net.base);
    expect([...trainable(model).keys()].reduce((n, p) => n + p.value.length, 0)).toBe(2 * (8 / 4 + 8));
  });
});

describe('the recipe of QLoRA', () => {
  it('trains as qlora with AdamW and clipping does, bit for bit, with its states in pages', async () => {
    const pages = new Map<number, Uint8Array>();
    const spill = async () => ({
      write: async (n: number, from: Uint8Array) => void pages.set(n, from.slice()),
      read: async (n: number, into: Uint8Array) => into.set(pages.get(n)!),
      close: async () => pages.clear(),
    });
    const { method, optimizer, clip, schedule } = qloraRecipe({ rank: 2, alpha: 16, spill, page: 64, budget: 128, adamw: { lr: 0.01 } });
    const loss = (m: Model) => run(net, m).loss;
    const plain = { engine, loss, optimizer: adamw({ lr: 0.01, weightDecay: 0 }), clip: clipByNorm(0.3) };
    await using a = await trainer(qlora({ rank: 2, alpha: 16 })(net.base), plain);
    await using b = await trainer(method(net.base), { engine, loss, optimizer, clip, schedule });
    const losses: number[] = [];
    for (let k = 0; k < 3; k++) {
      const step = await b.step({});
      expect(step).toEqual(await a.step({}));
      losses.push(step.loss);
    }
    expect(losses.at(-1)).toBeLessThan(losses[0]!);
    expect(await b.state()).toEqual(await a.state());
    expect(pages.size).toBeGreaterThan(0);
    expect(qloraRecipe({ spill }).optimizer.config).toMatchObject({ lr: 2e-4, weightDecay: 0, beta2: 0.999 });
  });
});

describe('on packed bases', () => {
  const wide = llamaNetwork(2);
  const ready = (t: Transform): Promise<Transform> => t.prepare(wide.base, { engine });
  it('QDoRA is DoRA on the unpacked weights', async () => {
    const scheme = nf4({ block: 8 });
    const model = perturb((await ready(qdora({ rank: 2, scheme })))(wide.base), 1);
    const plain = await realize(unpacked(quantize(wide.base, inBlocks, scheme)), engine);
    const wanted = await numbersOf(engine, wide, perturb(dora({ rank: 2, where: inBlocks })(plain), 1));
    expect(apart(await numbersOf(engine, wide, model), wanted)).toBeLessThan(1e-12);
    expect(() => qdora({ rank: 2, scheme })(wide.base)).toThrow('prepare(model, { engine })');
    expect(packedPaths(model)).toHaveLength(14);
  });
  it('QPiSSA packs the residual: nearer to the base than QLoRA, and its factors are PiSSA’s', async () => {
    const base = await numbersOf(engine, wide, wide.base);
    const scheme = nf4({ block: 8 });
    const off = async (t: Transform): Promise<number> => norm(await numbersOf(engine, wide, t(wide.base)), base);
    expect(await off(qpissa({ rank: 3, scheme }))).toBeLessThan(await off(qlora({ rank: 3, scheme })));
    const model = qpissa({ rank: 3, scheme })(wide.base);
    const values = (m: Model): number[] => [...trainable(m).keys()].flatMap((p) => [...p.value]);
    expect(values(model)).toEqual(values(pissa({ rank: 3, where: inBlocks })(wide.base)));
    expect(packedPaths(model)).toHaveLength(14);
    const { loss } = run(wide, model);
    expect(Number.isFinite(await engine.item(loss))).toBe(true);
  });
});
