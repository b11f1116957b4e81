// Sparse masks: which entries are chosen, that no others move, and that their gradient never exists densely.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import { lower } from '../../core/schedule.ts';
import { leaf, stateOf, topological } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import type { Model } from '../../nn/layer.ts';
import { nextToken } from '../../nn/losses.ts';
import { mapTensors, trainable } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';
import { merge } from '../../peft/merge.ts';
import { largest, placesAt } from '../../peft/select.ts';
import { sparseMask } from '../../peft/selective/sparseMask.ts';
import { perturb } from '../laws/models.ts';
import { counting, frozen, type Text } from '../optim/tiny.ts';
import { affine, apart, flat, layerAt, own, random, rowsOf } from './naive.ts';

const engine = float64();
const base = frozen();
const Q = 'trunk.blocks.0.attn.q';
const weightOf = async (m: Model, path = Q): Promise<number[]> => [...(await engine.read(layerAt(m, 'weight', `${path}.weight`)()))];
/** Flat positions of the entries a mask holds. */
const positions = async (m: Model, path = Q): Promise<number[]> => {
  const { 'sparseMask.start': start, 'sparseMask.col': col } = await own(engine, m, `${path}.weight`);
  return start![0]!.slice(0, -1).flatMap((s, r) => col![0]!.slice(s, start![0]![r + 1]).map((c) => r * 8 + c));
};

describe('choosing', () => {
  it('takes exactly k, the best of all lists together, the earlier of equals (seeded)', () =>
    fc.assert(
      fc.property(fc.integer(), fc.integer({ min: 1, max: 4 }), fc.double({ min: 0, max: 1, noNaN: true }), (seed, lists, share) => {
        const r = rng(seed);
        const scores = Array.from({ length: lists }, () => Float64Array.from({ length: 1 + r.below(9) }, () => r.below(4)));
        const all = scores.flatMap((s, l) => [...s].map((v, j) => ({ v, l, j })));
        const k = Math.round(share * all.length);
        const best = all.toSorted((a, b) => b.v - a.v || a.l - b.l || a.j - b.j).slice(0, k);
        const expected = scores.map((_, l) =>
          best
            .filter((e) => e.l === l)
            .map((e) => e.j)
            .sort((a, b) => a - b),
        );
        expect(largest(scores, k)).toEqual(expected);
      }),
    ));
  it('refuses more than there are, and scores that are not numbers', () => {
    expect(() => largest([Float64Array.of(1)], 2)).toThrow(/cannot choose 2 of 1/);
    expect(() => largest([Float64Array.of(1, Number.NaN)], 1)).toThrow(/score 1 is not a number/);
  });
  it('refuses places twice or outside', () => {
    expect(() => placesAt([3, 3], [2, 4])).toThrow(/there twice/);
    expect(() => placesAt([8], [2, 4])).toThrow(/outside a tensor of shape \[2, 4\]/);
  });
});

describe('sparseMask', () => {
  it('holds the k smallest or largest |W|, with density within one entry of what was asked', async () => {
    const w = (await weightOf(base)).map(Math.abs);
    for (const by of ['smallest', 'largest'] as const) {
      const chosen = await positions(sparseMask({ by, density: 0.2 })(base));
      expect(chosen.length).toBe(13); // round(0.2 · 64)
      const inside = chosen.map((p) => w[p]!);
      const outside = w.filter((_, p) => !chosen.includes(p));
      if (by === 'smallest') expect(Math.max(...inside)).toBeLessThanOrEqual(Math.min(...outside));
      else expect(Math.min(...inside)).toBeGreaterThanOrEqual(Math.max(...outside));
    }
  });
  it('random places follow the seed and differ between sites', async () => {
    const mask = (seed: number) => sparseMask({ by: 'random', density: 0.2, seed })(base);
    expect(await positions(mask(1))).toEqual(await positions(mask(1)));
    expect(await positions(mask(1))).not.toEqual(await positions(mask(2)));
    expect(await positions(mask(1))).not.toEqual(await positions(mask(1), 'trunk.blocks.1.attn.q'));
  });
  it('reads computed weights through prepare, and says so when it was not asked to', async () => {
    const under = perturb(sparseMask({ density: 0.1 })(base), 3);
    expect(() => sparseMask({ density: 0.1 })(under)).toThrow(
      /trunk\.blocks\.0\.attn\.q\.weight has to be computed .*prepare\(model, \{ engine \}\)/,
    );
    const second = await sparseMask({ density: 0.1, by: 'largest' }).prepare(under, { engine });
    expect(() => second(under)).not.toThrow();
  });

  it('is (W + S)x + b, by hand', async () => {
    const model = perturb(sparseMask({ density: 0.3 })(base), 5);
    const x = random(1, [3, 8]);
    const y = await engine.read(layerAt(model, 'linear', Q)(x, context(3)));
    const [w, where, { 'weight.sparseMask.values': values, bias }] = [
      await weightOf(base),
      await positions(model),
      await own(engine, model, Q),
    ];
    for (const [j, p] of where.entries()) w[p]! += values![0]![j]!;
    expect(apart(y, flat(affine(rowsOf(await engine.read(x), 8), rowsOf(w, 8), bias![0])))).toBeLessThan(1e-12);
  });

  it('trained by AdamW with weight decay, only the chosen entries of the merged weight differ, bit for bit', async () => {
    const model = sparseMask({ density: 0.25, by: 'largest' })(base);
    await using t = await trainer<Model, Text>(model, { engine, loss: nextToken, optimizer: adamw({ lr: 1e-2, weightDecay: 0.1 }) });
    for (let k = 0; k < 5; k++) await t.step(counting(k));
    const [before, after, chosen] = [await weightOf(base), await weightOf(merge(await t.model())), await positions(model)];
    const moved = before.flatMap((v, p) => (Object.is(v, after[p]) ? [] : [p]));
    expect(chosen.length).toBe(16);
    expect(moved).toEqual(chosen); // generic data: every chosen one moves, and no other
  });

  it('never computes the dense gradient of a masked weight', () => {
    const ids = leaf([1, 2, 3, 4], [1, 4]);
    const model = sparseMask({ density: 0.1, where: /\b(q|k|v|o|up|down)\.weight$/ })(base);
    const loss = nextToken(model, { ids, targets: ids }, context(4));
    const grads = grad(loss, [...trainable(model).keys()].map(stateOf));
    expect(grads.length).toBe(12);
    const backward = topological(lower(grads)).filter((t) => t.at.phase === 'backward' && t.source.kind === 'apply');
    const dense = backward.filter(
      (t) => t.source.kind === 'apply' && t.source.op.name === 'matmul' && (t.source.attrs as { ta: boolean }).ta && t.shape.length === 2,
    );
    expect(dense.map(String)).toEqual([]);
    expect(backward.filter((t) => t.source.kind === 'apply' && t.source.op.name === 'sampledProduct').length).toBe(12);
  });

  it('refuses densities outside (0, 1]', () => {
    for (const density of [0, -1, 1.5]) expect(() => sparseMask({ density })(base)).toThrow(/sparseMask: density at trunk/);
    expect(() => sparseMask({ density: 1 })(base)).not.toThrow();
  });
  it('keeps at least one entry', async () => expect((await positions(sparseMask({ density: 1e-6 })(base))).length).toBe(1));
  it('leaves every bit of the base at first, that of −0 too', async () => {
    const zeros = mapTensors(base, (t, path) => (path === `${Q}.weight` ? leaf(new Float64Array(64).fill(-0), [8, 8]) : t));
    expect((await weightOf(sparseMask({ density: 1 })(zeros))).every((v) => Object.is(v, -0))).toBe(true);
  });
});
