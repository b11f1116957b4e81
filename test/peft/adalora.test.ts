// AdaLoRA: its equation, its scores by hand, its budget, and what the mask does and does not do.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import { type Data, leaf, type Param, paramOf, stateOf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { freeze, withValues } from '../../nn/freeze.ts';
import type { Attached, Fields, Model } from '../../nn/layer.ts';
import { nextToken } from '../../nn/losses.ts';
import { layers } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';
import { finish, merge } from '../../peft/merge.ts';
import { type AdaloraConfig, adalora } from '../../peft/reparameterized/adalora.ts';
import { budget } from '../../peft/reparameterized/adaloraBudget.ts';
import { gpt2Network, perturb } from '../laws/models.ts';
import { counting, frozen, type Text } from '../optim/tiny.ts';
import { affine, apart, flat, layerAt, own, plus, random, rowsOf } from './naive.ts';

const engine = float64();
const base = frozen();
const Q = 'trunk.blocks.0.attn.q';
const defaults = adalora.method.defaults as unknown as AdaloraConfig;

const attachments = (m: Model): { path: string; own: Fields; attached: Attached }[] =>
  [...layers(m)].flatMap(({ path, layer: { attached, fields } }) =>
    attached === null ? [] : [{ path, own: fields[attached.field] as Fields, attached }],
  );
const state = (f: Fields, name: string): Param => paramOf(f[name] as Tensor)!;

describe('equation', () => {
  const { base } = gpt2Network(4);
  it('y = W x + b + α/(k + 1e-5) · P Λ Q x, by hand', async () => {
    const model = perturb(adalora({ rank: 3, targetRank: 2, alpha: 5 })(base), 2);
    const x = random(1, [4, 8]);
    const y = await engine.read(layerAt(model, 'linear', Q)(x, context(4)));
    const p = await own(engine, model, Q);
    const xs = rowsOf(await engine.read(x), 8);
    const inner = affine(xs, p['adalora.A']!).map((row) => row.map((v, j) => (v * p['adalora.E']![j]![0]! * 5) / 3.00001));
    expect(apart(y, flat(plus(affine(xs, p.weight!, p.bias![0]), affine(inner, p['adalora.B']!))))).toBeLessThan(1e-12);
  });
  it('starts with A and B of deviation 0.02 and E at 0', async () => {
    const p = await own(engine, adalora({ rank: 8, targetRank: 8 })(base), Q);
    for (const k of ['A', 'B']) {
      const v = flat(p[`adalora.${k}`]!);
      expect(Math.hypot(...v) / Math.sqrt(v.length)).toBeCloseTo(0.02, 2);
      expect(Math.hypot(...v)).toBeGreaterThan(0.1);
    }
    expect(flat(p['adalora.E']!).every((v) => v === 0)).toBe(true);
  });
});

describe('orthogonality', () => {
  const penalties = async (A: Tensor, B: Tensor): Promise<{ value: number; grads: Float64Array[] }> => {
    const model = adalora({ rank: 2, targetRank: 2, where: 'q' })(base);
    const values = new Map(attachments(model).flatMap(({ own: f }) => [[state(f, 'A'), A] as const, [state(f, 'B'), B] as const]));
    const numbers = new Map<Param, Float64Array>();
    for (const [p, t] of values) numbers.set(p, Float64Array.from(await engine.read(t)));
    const at = withValues(model, numbers);
    const penalty = attachments(at)
      .map(({ attached }) => attached.hooks.penalty!())
      .reduce((a, b) => a.add(b));
    const params = attachments(at).flatMap(({ own: f }) => [stateOf(state(f, 'A')), stateOf(state(f, 'B'))]);
    const grads: Float64Array[] = [];
    for (const g of grad(penalty, params)) grads.push(Float64Array.from(await engine.read(g)));
    return { value: await engine.item(penalty), grads };
  };
  it('costs nothing, and pulls nowhere, where the rows of A and the columns of B are orthonormal', async () => {
    const eye = Float64Array.from({ length: 16 }, (_, i) => (i === 0 || i === 3 ? 1 : 0));
    const orthonormal = Float64Array.from([0.6, 0.8, 0, 0, 0, 0, 0, 0, -0.8, 0.6, 0, 0, 0, 0, 0, 0]);
    const exact = await penalties(
      leaf(
        eye.map((_, i) => (i === 0 || i === 9 ? 1 : 0)),
        [2, 8],
      ),
      leaf(eye, [8, 2]),
    );
    expect(exact.value).toBeLessThan(1e-14);
    expect(exact.grads.every((g) => g.every((v) => v === 0))).toBe(true);
    expect((await penalties(leaf(orthonormal, [2, 8]), leaf(eye, [8, 2]))).value).toBeLessThan(1e-14);
  });
  it('is γ times the mean of the norms, not squared, over all A and B', async () => {
    const zero = await penalties(leaf(new Float64Array(16), [2, 8]), leaf(new Float64Array(16), [8, 2]));
    expect(zero.value).toBeCloseTo(defaults.orthogonality * Math.sqrt(2), 12); // every ‖0 − I₂‖ is √2
  });
});

describe('importance', () => {
  /** One hook call: values before and after, gradients, and the buffers' next values. */
  it('follows the averages by hand over two steps, with the new values and the new mean', async () => {
    const c = { ...defaults, rank: 2, targetRank: 1, beta1: 0.5, beta2: 0.75 };
    const model = adalora({ ...c, where: 'trunk.blocks.0.attn.q' })(base);
    const { own: f, attached } = attachments(model)[0]!;
    const names = ['A', 'E', 'B'] as const;
    const params = names.map((k) => state(f, k));
    const lists = (f.average as readonly Tensor[]).map((t, k) => [paramOf(t)!, paramOf((f.spread as readonly Tensor[])[k]!)!] as const);
    const store = engine.store();
    const mean = params.map((p) => new Float64Array(p.value.length));
    const spread = params.map((p) => new Float64Array(p.value.length));
    for (const t of [1, 2]) {
      const next = params.map((p, k) => Float64Array.from(rng(10 * t + k).normal(p.value.length)));
      const g = params.map((p, k) => Float64Array.from(rng(100 * t + k).normal(p.value.length)));
      const updates = attached.hooks.afterStep!({
        grad: new Map(params.map((p, k) => [p, leaf(g[k]!, p.shape)])),
        prev: stateOf,
        next: (p) => leaf(next[params.indexOf(p)]!, p.shape),
      });
      await (await engine.compile(store, { outputs: {}, next: updates })).run();
      for (const [k, w] of next.entries())
        for (const [i, v] of w.entries()) {
          const now = Math.abs(v * g[k]![i]!);
          mean[k]![i] = 0.5 * mean[k]![i]! + 0.5 * now;
          spread[k]![i] = 0.75 * spread[k]![i]! + 0.25 * Math.abs(now - mean[k]![i]!);
        }
      const got = await store.read(updates.keys());
      for (const [k, [m, u]] of lists.entries()) {
        expect(apart(got.get(m)!, mean[k]!)).toBeLessThan(1e-12);
        expect(apart(got.get(u)!, spread[k]!)).toBeLessThan(1e-12);
      }
      const s = (k: number, i: number): number => mean[k]![i]! * spread[k]![i]!;
      const triplet = [0, 1].map(
        (j) =>
          s(1, j) +
          [...Array(8).keys()].reduce((n, i) => n + s(0, j * 8 + i) / 8, 0) + // row j of A
          [...Array(8).keys()].reduce((n, i) => n + s(2, i * 2 + j) / 8, 0), // column j of B
      );
      expect(apart(got.get(state(f, 'score'))!, triplet)).toBeLessThan(1e-12);
      expect([...got.get(params[1]!)!]).toEqual([...next[1]!]); // no mask yet: E is what the optimizer wrote
    }
  });
});

describe('budget', () => {
  const plans = fc.tuple(
    fc.integer({ min: 1, max: 9 }),
    fc.integer({ min: 1, max: 9 }),
    fc.integer({ min: 0, max: 20 }),
    fc.integer({ min: 0, max: 20 }),
    fc.integer({ min: 1, max: 60 }),
    fc.integer({ min: 1, max: 5 }),
  );
  it('never grows, starts at all and ends at the target', () =>
    fc.assert(
      fc.property(plans, ([a, b, tinit, tfinal, between, n]) => {
        const c = { ...defaults, rank: Math.max(a, b), targetRank: Math.min(a, b), tinit, tfinal };
        const total = tinit + between + tfinal;
        const all = Array.from({ length: total }, (_, k) => budget(k + 1, total, c, n));
        expect(budget(tinit, total, c, n)).toBe(n * c.rank);
        expect(all.slice(total - tfinal - 1).every((v) => v === n * c.targetRank)).toBe(true);
        for (const [k, v] of all.entries()) expect(v).toBeLessThanOrEqual(all[k - 1] ?? n * c.rank);
      }),
    ));
  it('is the cubic of the paper: half way, an eighth of what is to go is left', () =>
    expect(budget(10, 20, { ...defaults, rank: 12, targetRank: 4 }, 2)).toBe(Math.floor(8 + 16 / 8)));
});

/** The controller of a fresh model, over numbers that the test holds. */
function controlled(options: Partial<AdaloraConfig>) {
  const model = adalora({ rank: 4, targetRank: 2, ...options })(base);
  const at = attachments(model);
  const controller = at[0]!.attached.application.control!(at);
  const numbers = new Map<Param, Float64Array>();
  const set = (name: string, f: (site: number, j: number) => number): void => {
    for (const [s, { own: o }] of at.entries())
      numbers.set(
        state(o, name),
        Float64Array.from({ length: 4 }, (_, j) => f(s, j)),
      );
  };
  const stepped = (step: number, total: number): Promise<ReadonlyMap<Param, Data> | null> =>
    controller.after({ step, total }, async (ps) => new Map(ps.map((p) => [p, numbers.get(p)!])));
  return { controller, at, set, stepped };
}

describe('masking', () => {
  it('zeroes E of the lowest scores of all layers together, and nothing else', async () => {
    const { at, set, stepped } = controlled({}); // 4 sites of 4 triplets
    set('E', () => 1);
    set('score', (s, j) => 4 * s + j); // 0 … 15: the first sites are worth least
    const write = (await stepped(10, 10))!; // the end: 8 of 16 stay
    expect(at.map(({ own: o }) => [...write.get(state(o, 'E'))!])).toEqual([
      [0, 0, 0, 0],
      [0, 0, 0, 0],
      [1, 1, 1, 1],
      [1, 1, 1, 1],
    ]);
    expect(at.map(({ own: o }) => [...write.get(state(o, 'kept'))!])).toEqual([
      [0, 0, 0, 0],
      [0, 0, 0, 0],
      [1, 1, 1, 1],
      [1, 1, 1, 1],
    ]);
    expect(write.size).toBe(8);
  });
  it('keeps at most the budget, fewer where scores tie (seeded)', () =>
    fc.assert(
      fc.asyncProperty(fc.integer(), fc.integer({ min: 1, max: 20 }), async (seed, step) => {
        const { at, set, stepped } = controlled({});
        const r = rng(seed);
        set('E', () => 1);
        set('score', () => r.below(6));
        const write = await stepped(step, 20);
        const b = budget(step, 20, { ...defaults, rank: 4, targetRank: 2 }, 4);
        if (b === 16) expect(write).toBeNull();
        else {
          const left = at.reduce((n, { own: o }) => n + Array.from(write!.get(state(o, 'E'))!).filter((v) => v !== 0).length, 0);
          expect(left).toBeLessThanOrEqual(b);
        }
      }),
      { numRuns: 40 },
    ));
  it('waits for tinit and for every deltaT-th step, fixes the mask at the end, then leaves it to the step itself', async () => {
    const { set, stepped } = controlled({ tinit: 3, tfinal: 4, deltaT: 2 });
    set('E', () => 1);
    set('score', (s, j) => 4 * s + j);
    const wrote = await Promise.all(Array.from({ length: 15 }, (_, k) => stepped(k + 1, 15).then((w) => (w === null ? 0 : w.size))));
    expect(wrote).toEqual([0, 0, 0, 4, 0, 4, 0, 4, 0, 4, 8, 0, 0, 0, 0]); // 11 = 15 − 4: values and the mask
  });
  it('does nothing when the budget never shrinks', async () => {
    const { stepped } = controlled({ targetRank: 4 });
    for (let k = 1; k <= 10; k++) expect(await stepped(k, 10)).toBeNull();
  });
  it('refuses totals it cannot keep, before the first step', async () => {
    const { controller } = controlled({ tinit: 5, tfinal: 5 });
    expect(() => controller.begin!(10)).toThrow(/adalora: 10 steps leave none between tinit 5 and the last tfinal 5/);
    expect(() => controller.begin!(11)).not.toThrow();
    const t = await trainer<Model, Text>(adalora({ rank: 2, targetRank: 1 })(base), { engine, loss: nextToken, optimizer: adamw() });
    await expect(t.step(counting(1))).rejects.toThrow(/adalora: the budget depends on how many steps there will be/);
  });
});

describe('trained', () => {
  const options = { rank: 4, targetRank: 1, tinit: 2, tfinal: 4, where: ['q', 'v', 'up'] };
  it('keeps the budget at the end; masked triplets add nothing; E grows again before the mask is fixed, not after', async () => {
    const model = adalora(options)(base);
    await using t = await trainer<Model, Text>(model, { engine, loss: nextToken, optimizer: adamw({ lr: 0.02 }), total: 14 });
    const E = async (): Promise<number[]> => {
      const now = await t.model();
      const all: number[] = [];
      for (const { own: f } of attachments(now)) all.push(...(await engine.read(f.E as Tensor)));
      return all;
    };
    const at: number[][] = [];
    for (let k = 0; k < 14; k++) {
      await t.step(counting(k));
      at.push(await E());
    }
    const alive = at.map((e) => e.filter((v) => v !== 0).length);
    const c = { ...defaults, ...options };
    for (let k = 2; k < 10; k++) expect(alive[k], `step ${k + 1}`).toBe(budget(k + 1, 14, c, 6));
    expect(alive.slice(9)).toEqual([6, 6, 6, 6, 6]);
    const pattern = (e: readonly number[]): string => e.map((v) => (v === 0 ? '.' : '#')).join('');
    expect(new Set(at.slice(9).map(pattern)).size).toBe(1); // the mask stays
    expect(new Set(at.slice(9).map((e) => e.join())).size).toBe(5); // and what it leaves goes on learning
    const back = at.slice(2, 10).some((e, k) => at[k + 1]!.some((v, j) => v === 0 && e[j] !== 0));
    expect(back, 'a masked triplet came back').toBe(true);

    const trained = await t.model();
    const merged = merge(finish(trained));
    const [w, w0] = [merged, base].map((m) => layerAt(m, 'weight', `${Q}.weight`)());
    const p = await own(engine, trained, Q);
    const delta = p['adalora.B']!.map((row) =>
      p['adalora.A']![0]!.map((_, i) =>
        row.reduce(
          (s, b, j) => (p['adalora.E']![j]![0] === 0 ? s : s + (b * p['adalora.E']![j]![0]! * p['adalora.A']![j]![i]! * 8) / 4.00001),
          0,
        ),
      ),
    );
    const difference = (await engine.read(w!)).slice();
    const before = await engine.read(w0!);
    expect(Math.max(...difference.map((v, k) => Math.abs(v - before[k]! - flat(delta)[k]!)))).toBeLessThan(1e-13);
  });
  it('resumes bit for bit in the middle of the budget', async () => {
    const fresh = () =>
      trainer<Model, Text>(adalora(options)(base), { engine, loss: nextToken, optimizer: adamw({ lr: 0.02 }), total: 14 });
    await using a = await fresh();
    for (let k = 0; k < 6; k++) await a.step(counting(k));
    await using b = await fresh();
    await b.load(await a.state());
    for (let k = 6; k < 14; k++) for (const t of [a, b]) await t.step(counting(k));
    expect((await b.state()).values).toEqual((await a.state()).values);
  });
  it('finished or frozen, it steers nothing', () => {
    const model = adalora(options)(base);
    for (const m of [finish(model), freeze(model)])
      expect(attachments(m).every(({ attached }) => Object.keys(attached.hooks).length === 0)).toBe(true);
    const done = attachments(finish(model));
    expect(Object.keys(done[0]!.own)).toEqual(['A', 'E', 'B']);
  });
});

it('refuses settings that cannot work', () => {
  for (const [options, why] of [
    [{ rank: 2, targetRank: 3 }, /adalora: targetRank 3 must be at least 1 and at most 2/],
    [{ rank: 9, targetRank: 1 }, /adalora: rank 9 at trunk/],
    [{ rank: 4, targetRank: 2, beta1: 1 }, /adalora: beta1 1 must be/],
    [{ rank: 4, targetRank: 2, deltaT: 0 }, /adalora: deltaT 0 must be a whole number/],
    [{ rank: 4, targetRank: 2, tinit: -1 }, /adalora: tinit -1/],
  ] as const)
    expect(() => adalora(options)(base)).toThrow(why);
});
