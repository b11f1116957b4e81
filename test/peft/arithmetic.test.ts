// Adapter arithmetic: the laws of METHODS 6.2, each rule against its definition, and LoRAHub's search.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { context } from '../../nn/context.ts';
import type { Model } from '../../nn/layer.ts';
import { layers, trainable } from '../../nn/tree.ts';
import {
  type Adapter,
  adapterOf,
  attachAdapter,
  cat,
  changeOf,
  dare,
  linear,
  magnitudePrune,
  onChange,
  onFactors,
  pruned,
  thinned,
  ties,
  weightedSum,
} from '../../peft/arithmetic.ts';
import { stack } from '../../peft/combinators.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { composed, loraHub } from '../../peft/reparameterized/loraHub.ts';
import { llamaNetwork, numbersOf, perturb, run } from '../laws/models.ts';
import { apart, layerAt, random } from './naive.ts';

const engine = float64();
const net = llamaNetwork(3);
const { base } = net;
const Q = 'trunk.blocks.0.attn.q';
const trained = (seed: number, rank: number, alpha: number, where: string | string[] = ['q', 'v']): Model =>
  perturb(lora({ rank, alpha, where })(base), seed);
const one = adapterOf(trained(1, 2, 3));
const two = adapterOf(trained(2, 2, 1));
const changes = (a: Adapter) => new Map([...a].map(([path, p]) => [path, changeOf(p)]));
const sum = (adapters: readonly Adapter[], w: readonly number[]) =>
  new Map(
    [...adapters[0]!.keys()].map((path) => [
      path,
      weightedSum(
        adapters.map((a) => changeOf(a.get(path)!)),
        w,
        rng(0),
      ),
    ]),
  );
const near = (a: Adapter, want: ReadonlyMap<string, Float64Array>, within = 1e-12): void => {
  expect([...a.keys()].sort()).toEqual([...want.keys()].sort());
  for (const [path, v] of changes(a)) expect(apart(v, want.get(path)!), path).toBeLessThan(within);
};
const F = (...v: number[]): Float64Array => Float64Array.from(v);
const seeds = fc.integer();

describe('an adapter', () => {
  it('taken from a model and attached to the base computes the same, and can be trained on', async () => {
    const model = trained(1, 2, 3);
    const again = attachAdapter(base, adapterOf(model));
    expect(apart(await numbersOf(engine, net, again), await numbersOf(engine, net, model))).toBeLessThan(1e-12);
    expect(trainable(again).size).toBe(8);
  });
  it('of several ranks attaches as several applications', async () => {
    const mixed = new Map([...one].map(([path, p]) => (path === Q ? [path, cat([one, two], [1, 1]).get(path)!] : [path, p])));
    const ranks = [...layers(attachAdapter(base, mixed))].flatMap(({ layer }) =>
      layer.attached === null ? [] : [(layer.attached.application.config as { rank: number }).rank],
    );
    expect(ranks.sort()).toEqual([2, 2, 2, 4]);
  });
  it('is refused where there is none, or two on one layer', () => {
    expect(() => adapterOf(base)).toThrow(/no layer of this model has LoRA/);
    expect(() => adapterOf(stack(lora({ rank: 1 }), lora({ rank: 1 }))(base))).toThrow(/attn\.q has two LoRAs/);
  });
});

describe('combinations', () => {
  it('cat is the weighted sum of the changes, and of the outputs', async () => {
    const w = [0.7, -1.3];
    const sumOf = cat([one, two], w);
    near(sumOf, sum([one, two], w));
    const x = random(1, [3, 8]);
    const y = async (a: Adapter | null) =>
      (await engine.read(layerAt(a === null ? base : attachAdapter(base, a), 'linear', Q)(x, context(3)))).slice();
    const [y0, y1, y2, both] = [await y(null), await y(one), await y(two), await y(sumOf)];
    expect(
      apart(
        both,
        y0.map((v, k) => v + w[0]! * (y1[k]! - v) + w[1]! * (y2[k]! - v)),
      ),
    ).toBeLessThan(1e-12);
  });
  it('of different places: each takes part where it is', () => {
    const other = adapterOf(trained(3, 2, 2, 'q'));
    const all = cat([one, other], [1, 2]);
    expect([...all.keys()].length).toBe(4);
    expect(all.get('trunk.blocks.0.attn.v')!.rank).toBe(2);
    expect(all.get(Q)!.rank).toBe(4);
  });
  it('linear is √-weighted factors with the sign on A: one adapter gives w·ΔW, several have cross terms', () => {
    near(linear([one], [-0.6]), sum([one], [-0.6]));
    const mixed = linear([one, two], [1, 1]);
    expect(mixed.get(Q)!.rank).toBe(2);
    const [p, q] = [one.get(Q)!, two.get(Q)!];
    const [s, t] = [Math.sqrt(p.scale), Math.sqrt(q.scale)];
    expect(
      apart(
        mixed.get(Q)!.a,
        p.a.map((v, k) => s * v + t * q.a[k]!),
      ),
    ).toBeLessThan(1e-12);
    expect(
      apart(
        mixed.get(Q)!.b,
        p.b.map((v, k) => s * v + t * q.b[k]!),
      ),
    ).toBeLessThan(1e-12);
    expect(apart(changeOf(mixed.get(Q)!), sum([one, two], [1, 1]).get(Q)!)).toBeGreaterThan(0.1);
  });
  it('svd of rank Σ r_i is cat; of a smaller rank the best approximation, and clamping cuts the largest numbers', () => {
    const w = [1.5, -0.5];
    near(onChange(weightedSum, [one, two], w, { rank: 4 }), sum([one, two], w), 1e-9);
    const small = onChange(weightedSum, [one, two], w).get(Q)!;
    expect(small.rank).toBe(2);
    const [exact, cut] = [small, onChange(weightedSum, [one, two], w, { clamp: 0.9 }).get(Q)!];
    expect(Math.max(...cut.a, ...cut.b)).toBeLessThan(Math.max(...exact.a, ...exact.b));
    expect([...cut.a].filter((v, k) => v === exact.a[k]).length).toBeGreaterThan(8);
  });
  it('equal adapters of weights 1 and −1 cancel: in cat, svd, and, the sign being on A, not in B of linear', () => {
    for (const a of [cat([one, one], [1, -1]), onChange(weightedSum, [one, one], [1, -1]), linear([one, one], [1, -1])])
      for (const change of changes(a).values()) expect(Math.max(...change.map(Math.abs))).toBeLessThan(1e-12);
  });
  it('refuse what cannot be combined', () => {
    expect(() => linear([one, adapterOf(trained(1, 1, 1))], [1, 1])).toThrow(
      /onFactors: at .* the ranks 2, 1 differ; combine them with cat/,
    );
    expect(() => cat([one], [1, 2])).toThrow(/cat: 1 adapters need as many weights/);
    expect(() => cat([], [])).toThrow(/cat/);
    expect(() => onChange(weightedSum, [one], [1], { rank: 9 })).toThrow(/onChange: rank 9/);
    for (const density of [0, 1.1, Number.NaN]) for (const f of [ties, dare, magnitudePrune]) expect(() => f(density)).toThrow(/density/);
  });
});

describe('pruning and electing', () => {
  it('keeps the ⌊ρN⌋ largest by magnitude', () => {
    expect([...pruned(F(1, -3, 2, -0.5, 0), 0.5)].map((v) => v + 0)).toEqual([0, -3, 2, 0, 0]);
    expect([...pruned(F(1, -1, 1), 0.67)]).toEqual([1, -1, 0]); // the earlier of equals
    expect([...magnitudePrune(0.5)([F(1, -3), F(4, 2)], [2, 1], rng(0))]).toEqual([4, -6]);
  });
  it('TIES by hand: signs elected without weights, means over those that agree', () => {
    const tasks = [F(3, -1, 2, 0), F(-1, -2, -2, 0), F(-1, 4, 1, 0)];
    // sums 1, 1, 1, 0 → all plus; counts of signs −1, −1, 1, 0 → minus, minus, plus, plus
    expect([...ties(1, 'total')(tasks, [1, 10, 2], rng(0))]).toEqual([3, 8, (2 + 2) / 2, 0]);
    expect([...ties(1, 'frequency')(tasks, [1, 10, 2], rng(0))]).toEqual([(-10 - 2) / 2, (-1 - 20) / 2, (2 + 2) / 2, 0]);
  });
  it('TIES of one task is the pruned task times its weight (seeded)', () =>
    fc.assert(
      fc.property(seeds, fc.double({ min: 0.1, max: 1, noNaN: true }), (seed, density) => {
        const t = Float64Array.from(rng(seed).normal(20));
        expect([...ties(density)([t], [0.5], rng(0))].map((v) => v + 0)).toEqual([...pruned(t, density)].map((v) => 0.5 * v + 0));
      }),
      { numRuns: 30 },
    ));
  it('DARE is unbiased: the mean of many draws is the task, within four standard errors', () => {
    const [t, density, n] = [F(1, -2, 0.5, 0), 0.3, 2000];
    const mean = new Float64Array(4);
    const r = rng(11);
    for (let k = 0; k < n; k++) for (const [i, v] of thinned(t, density, r.split(k)).entries()) mean[i]! += v / n;
    for (const [i, v] of t.entries())
      expect(Math.abs(mean[i]! - v)).toBeLessThanOrEqual(4 * Math.abs(v) * Math.sqrt((1 - density) / density / n));
  });
  it('DARE keeps everything at density 1, follows its seed, and draws for A, B and every task apart', () => {
    near(onChange(dare(1), [one, two], [1, 1], { rank: 4 }), sum([one, two], [1, 1]), 1e-9);
    const at = (seed: number) => onFactors(dare(0.5), [one, one], [1, 1], seed).get(Q)!;
    expect([...at(1).a]).toEqual([...at(1).a]);
    expect([...at(1).a]).not.toEqual([...at(2).a]);
    const s = Math.sqrt(one.get(Q)!.scale);
    const ratio = at(1).a.map((v, k) => v / (s * one.get(Q)!.a[k]!));
    expect(new Set(ratio.map((v) => Math.round(v)))).toEqual(new Set([0, 2, 4])); // kept by none, one or both of the two tasks
    expect([...onFactors(dare(0.5, 'total'), [one, two], [1, 1]).get(Q)!.a].every(Number.isFinite)).toBe(true);
  });
  it('on changes, the result has the rank asked for and fits a model', async () => {
    for (const merge of [ties(0.4), ties(0.4, 'frequency'), dare(0.6), magnitudePrune(0.3)]) {
      const model = attachAdapter(base, onChange(merge, [one, two], [1, 0.5], { rank: 3 }));
      expect((await numbersOf(engine, net, model)).every(Number.isFinite)).toBe(true);
    }
  });
});

describe('loraHub', () => {
  it('composes A and B apart: a one-hot of coefficients is that adapter', () => {
    const equal = adapterOf(trained(2, 2, 3));
    near(composed([one, equal], [1, 0]), changes(one));
    near(composed([one, equal], [0, 1]), changes(equal));
    expect(() => composed([one, two], [1, 0])).toThrow(/loraHub: the adapters differ in place, rank or scale/);
  });
  it('finds, from zero, coefficients better than none; within bounds, and the same for the same seed', async () => {
    const target = adapterOf(trained(5, 2, 3));
    const adapters = [adapterOf(trained(4, 2, 3)), target];
    const goal = changeOf(target.get(Q)!);
    const loss = async (m: Model): Promise<number> => {
      const now = changeOf(adapterOf(m).get(Q)!);
      return now.reduce((s, v, k) => s + (v - goal[k]!) ** 2, 0);
    };
    const none = goal.reduce((s, v) => s + v * v, 0);
    const found = await loraHub(base, adapters, loss, { steps: 40, seed: 2 });
    expect(found.objective).toBeLessThan(0.2 * none);
    expect(Math.abs(found.weights[1]!)).toBeGreaterThan(0.6);
    expect(found.weights.every((w) => Math.abs(w) <= 1.5)).toBe(true);
    expect((await loraHub(base, adapters, loss, { steps: 40, seed: 2 })).weights).toEqual(found.weights);
  });
  it('minimises a loss of real examples', async () => {
    const adapters = [adapterOf(trained(4, 2, 3)), adapterOf(trained(5, 2, 3))];
    const loss = (m: Model): Promise<number> => engine.item(run(net, m).loss);
    const found = await loraHub(base, adapters, loss, { steps: 12 });
    expect(found.objective).toBeLessThanOrEqual(await loss(base));
  });
});
