// Delta-LoRA, DyLoRA, SoRA, LoRA dropout and LoRA-drop: LoRA whose weight, rank or layers change while it trains.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import { within } from '../../core/scope.ts';
import { type Data, leaf, type Param, paramOf, type Tensor, topological } from '../../core/tensor.ts';
import { loadAdapter, saveAdapter } from '../../io/adapters.ts';
import { type Context, context, stochastic } from '../../nn/context.ts';
import { withValues } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { layers, tensors, trainable } from '../../nn/tree.ts';
import { product } from '../../peft/linalg.ts';
import { merge } from '../../peft/merge.ts';
import { deltaLora } from '../../peft/reparameterized/deltaLora.ts';
import { dylora } from '../../peft/reparameterized/dylora.ts';
import { atRank } from '../../peft/reparameterized/dyloraRank.ts';
import { type Factors, lora } from '../../peft/reparameterized/lora.ts';
import { loraDrop } from '../../peft/reparameterized/loraDrop.ts';
import { ensemble, loraDropout } from '../../peft/reparameterized/loraDropout.ts';
import { dropLora, importance, mostImportant } from '../../peft/reparameterized/loraDropRecipe.ts';
import { shrink, sora } from '../../peft/reparameterized/sora.ts';
import { pruned } from '../../peft/reparameterized/soraPruned.ts';
import { withFactors } from '../../peft/reparameterized/withFactors.ts';
import { gpt2Network, numbersOf, perturb, run } from '../laws/models.ts';
import { affine, apart, flat, layerAt, type Matrix, own, plus, random, rowsOf, scaled } from './naive.ts';
import { trained } from './train.ts';

const engine = float64();
const net = gpt2Network(4);
const { base } = net;
const Q = 'trunk.blocks.0.attn.q';
const x = random(1, [4, 8]);
const named = (m: Model, name: string): Tensor => [...tensors(m)].find(({ path }) => path === `${Q}.${name}`)!.tensor;
const output = async (m: Model, change: Partial<Context> = {}, feed = {}) =>
  (await engine.read(layerAt(m, 'linear', Q)(x, context(4, change)), feed)).slice();
const values = async () => rowsOf(await engine.read(x), 8);
const rows = (m: Matrix): Float64Array => Float64Array.from(flat(m));
const times = (b: Matrix, a: Matrix): Float64Array => product(rows(b), rows(a), b.length, a.length, a[0]!.length);
/** The model with some of its tensors at other values. */
const put = (m: Model, change: Readonly<Record<string, readonly number[]>>): Model =>
  withValues(m, new Map<Param, Float64Array>(Object.entries(change).map(([name, v]) => [paramOf(named(m, name))!, Float64Array.from(v)])));

describe('deltaLora', () => {
  const config = { rank: 2, alpha: 3, lambda: 0.7, seed: 1, where: 'q' };
  const S = 3 / 2;
  it('moves the weight by λ·s·(B A after the step − B A before it) from step K on, which telescopes', async () => {
    const K = 1;
    let before: Float64Array | null = null;
    let moved = new Float64Array(64);
    await trained(engine, net, deltaLora({ ...config, warmup: K })(base), { total: 3 }, async (m, step) => {
      const p = await own(engine, m, Q);
      const now = times(p['deltaLora.B']!, p['deltaLora.A']!);
      if (step > K) moved = moved.map((v, k) => v + 0.7 * S * (now[k]! - before![k]!)); // the paper's update, one step at a time
      before = now;
      const weight = await engine.read(layerAt(merge(m), 'weight', `${Q}.weight`)());
      const W = flat(p.weight!);
      expect(
        apart(
          weight,
          W.map((w, k) => w + S * now[k]! + moved[k]!),
        ),
      ).toBeLessThan(1e-12);
      expect([...p['deltaLora.on']!.flat()]).toEqual([step >= K ? 1 : 0]);
    });
    expect(Math.hypot(...moved)).toBeGreaterThan(1e-4);
  });
  it('with K beyond the training it is LoRA; with K = 0 the weight moves from the first step', async () => {
    const start = (warmup: number): Model => deltaLora({ ...config, warmup })(base);
    const A = async (m: Model, method: string) => rows((await own(engine, await trained(engine, net, m, { total: 3 }), Q))[`${method}.A`]!);
    const never = await A(start(Number.MAX_SAFE_INTEGER), 'deltaLora');
    const factors = new Map(
      [...layers(start(9))].flatMap(({ path, layer: l }) => (l.attached === null ? [] : [[path, l.fields.deltaLora as Factors] as const])),
    );
    expect(apart(await A(withFactors(base, factors, { rank: 2, alpha: 3 }), 'lora'), never)).toBeLessThan(1e-12);
    expect(apart(await A(start(0), 'deltaLora'), never)).toBeGreaterThan(1e-6);
  });
  it('sends no gradient through the moved part to the factors, but the input’s', async () => {
    const model = perturb(deltaLora({ ...config, warmup: 0 })(base), 1);
    const dy = random(2, [4, 8]);
    const free = leaf(await engine.read(x).then((v) => v.slice()), [4, 8]);
    const [a, dx] = grad(layerAt(model, 'linear', Q)(free, context(4)).mul(dy).sum(), [named(model, 'deltaLora.A'), free]);
    const p = await own(engine, model, Q);
    const g = rowsOf(await engine.read(dy), 8);
    const back = affine(
      g,
      p['deltaLora.B']![0]!.map((_, j) => p['deltaLora.B']!.map((row) => row[j]!)),
    ); // dy B: [4, 2]
    const wanted = [0, 1].flatMap((j) =>
      Array.from({ length: 8 }, (_, i) => S * back.reduce((s, row, t) => s + row[j]! * xs8[t * 8 + i]!, 0)),
    );
    expect(apart(await engine.read(a!), wanted)).toBeLessThan(1e-12);
    const W = await engine.read(layerAt(merge(model), 'weight', `${Q}.weight`)());
    expect(apart(await engine.read(dx!), product(Float64Array.from(flat(g)), W, 4, 8, 8))).toBeLessThan(1e-12);
  });
});
const xs8 = (() => {
  const s = x.source;
  return s.kind === 'leaf' ? s.data : new Float32Array(0);
})();

describe('dylora', () => {
  const config = { rank: 4, alpha: 6, seed: 1 };
  const fresh = perturb(dylora(config)(base), 2);
  const u = (b: number): Float32Array => Float32Array.of((b - 0.5) / 4);
  const input = (m: Model) =>
    topological([layerAt(m, 'linear', Q)(x, context(4, { draw: stochastic() }))]).flatMap((t) =>
      t.source.kind === 'input' ? [t.source.name] : [],
    );
  it('y = W x + b₀ + (α/b)·B[:, :b] A[:b] x: in training for the b that is drawn, in evaluation at r, at any b after truncation', async () => {
    const [p, xs] = [await own(engine, fresh, Q), await values()];
    const byHand = (b: number): number[] => {
      const [A, B] = [p['dylora.A']!.slice(0, b), p['dylora.B']!.map((row) => row.slice(0, b))];
      return flat(
        plus(
          affine(xs, p.weight!, p.bias![0]),
          scaled(affine(affine(xs, A), B), () => 6 / b),
        ),
      );
    };
    const [name] = input(fresh);
    for (const b of [1, 2, 3, 4]) {
      expect(apart(await output(fresh, { draw: stochastic() }, { [name!]: u(b) }), byHand(b))).toBeLessThan(1e-12);
      expect(apart(await output(atRank(fresh, b)), byHand(b))).toBeLessThan(1e-12);
      const set = perturb(dylora({ ...config, inferenceRank: b })(base), 2);
      expect(apart(await output(set), byHand(b))).toBeLessThan(1e-12);
      expect(apart(await output(merge(set)), byHand(b))).toBeLessThan(1e-12);
    }
    expect(apart(await output(fresh), byHand(4))).toBeLessThan(1e-12);
  });
  for (const frozen of [false, true])
    it(`rows beyond b get no gradient${frozen ? ', and frozen, none but row b does' : ''}; b is one for all layers`, async () => {
      const model = perturb(dylora({ ...config, frozen })(base), 2);
      const { loss } = run(net, model, stochastic());
      const names = new Set(topological([loss]).flatMap((t) => (t.source.kind === 'input' ? [t.source.name] : [])));
      expect(names.size).toBe(1);
      const [a, b] = grad(loss, [named(model, 'dylora.A'), named(model, 'dylora.B')]);
      const feed = { [[...names][0]!]: u(3) };
      const [ga, gb] = [rowsOf(await engine.read(a!, feed), 8), rowsOf((await engine.read(b!, feed)).slice(), 4)];
      const live = [0, 1, 2, 3].map((j) => [ga[j]!, gb.map((row) => row[j]!)].map((v) => v.some((g) => g !== 0)));
      expect(live).toEqual((frozen ? [false, false, true, false] : [true, true, true, false]).map((v) => [v, v]));
    });
  it('draws every b equally often from r_min to r', async () => {
    const model = dylora({ ...config, rankMin: 2 })(base);
    const [name] = input(model);
    const counts = new Map<number, number>();
    const r = rng(3);
    const p = perturb(model, 2);
    const at = new Map<string, number>();
    for (const b of [2, 3, 4]) at.set(JSON.stringify([...(await output(atRank(p, b)))].map((v) => v.toFixed(9))), b);
    for (let k = 0; k < 60; k++) {
      const y = await output(p, { draw: stochastic() }, { [name!]: r.uniform(1) });
      const b = at.get(JSON.stringify([...y].map((v) => v.toFixed(9))))!;
      counts.set(b, (counts.get(b) ?? 0) + 1);
    }
    expect([...counts.keys()].sort()).toEqual([2, 3, 4]);
    for (const n of counts.values()) expect(Math.abs(n - 20)).toBeLessThan(4 * Math.sqrt((60 * 2) / 9)); // four deviations of a binomial
  });
  it('refuses ranks beyond what there is', () => {
    expect(() => dylora({ rank: 2, rankMin: 3 })(base)).toThrow(/dylora: rankMin 3/);
    expect(() => dylora({ rank: 2, inferenceRank: 3 })(base)).toThrow(/dylora: inferenceRank 3/);
    expect(() => atRank(fresh, 5)).toThrow(/atRank: b 5/);
    expect(() => atRank(base, 1)).toThrow(/no layer of this model has DyLoRA/);
  });
});

describe('sora', () => {
  const config = { rank: 4, alpha: 8, seed: 1 };
  it('y = W x + b + s·B (g ⊙ A x)', async () => {
    const model = perturb(sora(config)(base), 2);
    const [p, xs] = [await own(engine, model, Q), await values()];
    const inner = scaled(affine(xs, p['sora.A']!), (_, j) => p['sora.g']![0]![j]!);
    expect(
      apart(
        await output(model),
        flat(
          plus(
            affine(xs, p.weight!, p.bias![0]),
            scaled(affine(inner, p['sora.B']!), () => 2),
          ),
        ),
      ),
    ).toBeLessThan(1e-12);
  });
  it('shrinks by ξ and closes below ξ; as the authors do, below 2ξ', async () => {
    const g = leaf([-3, -1.5, -0.5, 0, 0.5, 1.5, 3], [7]);
    expect([...(await engine.read(shrink(g, { xi: 1, threshold: 'soft' })))].map((v) => v + 0)).toEqual([-2, -0.5, 0, 0, 0, 0.5, 2]);
    expect([...(await engine.read(shrink(g, { xi: 1, threshold: 'authors' })))].map((v) => v + 0)).toEqual([-2, 0, 0, 0, 0, 0, 2]);
  });
  it('closes gates in training, more of them as time goes by, and with these seeds none opens again', async () => {
    const open: number[] = [];
    const model = sora({ ...config, xi: 0.15, where: ['q', 'down'] })(base);
    const end = await trained(engine, net, model, { total: 6 }, async (m) => {
      open.push(
        [...tensors(m)]
          .filter(({ path }) => path.endsWith('.g'))
          .flatMap(({ tensor }) => [...paramOf(tensor)!.value])
          .filter((v) => v !== 0).length,
      );
    });
    expect(open.at(-1)!).toBeLessThan(4 * 4);
    expect(open.at(-1)!).toBeGreaterThan(0);
    expect(open).toEqual([...open].sort((a, b) => b - a)); // a closed gate still has a gradient
    const small = pruned(end);
    expect(apart(await numbersOf(engine, net, small), await numbersOf(engine, net, end))).toBeLessThan(1e-12);
    const ranks = [...layers(small)].flatMap(({ layer }) =>
      layer.attached === null ? [] : [(layer.attached.application.config as { rank: number }).rank],
    );
    expect(ranks.reduce((a, b) => a + b)).toBe(open.at(-1));
    expect([...trainable(small).values()].some((path) => path.endsWith('.g'))).toBe(false);
    const folder = await mkdtemp(join(tmpdir(), 'tinypeft-sora-')); // as plain LoRA it needs no pattern of ranks in the file
    try {
      await saveAdapter(small, folder);
      const loaded = await loadAdapter(base, folder, [lora]);
      expect([...(await numbersOf(engine, net, loaded))]).toEqual([...(await numbersOf(engine, net, small))]);
    } finally {
      await rm(folder, { recursive: true });
    }
  });
  it('a site whose gates are all closed is left bare; a model without SoRA is refused', () => {
    const shut = put(sora(config)(base), { 'sora.g': [0, 0, 0, 0] });
    expect(layerAt(pruned(shut), 'linear', Q).attached).toBeNull();
    expect(() => pruned(base)).toThrow(/no layer of this model has SoRA/);
  });
});

describe('loraDropout', () => {
  const model = perturb(loraDropout({ rank: 3, alpha: 6, dropout: 0.5 })(base), 2);
  it('drops whole columns of A and rows of B, divided by what is kept; nothing in evaluation', async () => {
    const [p, xs] = [await own(engine, model, Q), await values()];
    const byHand = (mA: Data, mB: Data): number[] => {
      const A = p['loraDropout.A']!.map((row) => row.map((v, i) => 2 * v * mA[i]!));
      const B = p['loraDropout.B']!.map((row, o) => row.map((v) => 2 * v * mB[o]!));
      return flat(
        plus(
          affine(xs, p.weight!, p.bias![0]),
          scaled(affine(affine(xs, A), B), () => 2),
        ),
      );
    };
    const names = topological([layerAt(model, 'linear', Q)(x, context(4, { draw: stochastic() }))]).flatMap((t) =>
      t.source.kind === 'input' ? [t.source.name] : [],
    );
    expect(names.map((n) => n.slice(-2)).sort()).toEqual(['.A', '.B']);
    const [mA, mB] = [rng(5).bernoulli(8, 0.5), rng(6).bernoulli(8, 0.5)];
    const feed = Object.fromEntries(names.map((n) => [n, n.endsWith('.A') ? mA : mB]));
    expect(apart(await output(model, { draw: stochastic() }, feed), byHand(mA, mB))).toBeLessThan(1e-12);
    const half = new Float32Array(8).fill(0.5);
    expect(apart(await output(model), byHand(half, half))).toBeLessThan(1e-12);
  });
  it('the ensemble is the mean of passes with masks of their own', async () => {
    const passes = [0, 1, 2].map((pass) => within({ path: 'model' }, () => model(net.batch, context(5, { draw: stochastic(pass) }))));
    const outputs = { many: ensemble(model, 3)(net.batch, context(5)), a: passes[0]!, b: passes[1]!, c: passes[2]! };
    const { many, a, b, c } = await (await engine.compile(engine.store(), { outputs })).run({}, 4);
    expect(
      apart(
        many,
        a.map((v, k) => (v + b[k]! + c[k]!) / 3),
      ),
    ).toBeLessThan(1e-12);
    expect(apart(a, b)).toBeGreaterThan(1e-3);
    expect(() => ensemble(model, 0)).toThrow(/ensemble: n 0/);
  });
});

describe('loraDrop', () => {
  it('shares one LoRA per kind of projection among the layers that do not keep their own', async () => {
    const keep = ['blocks.1.attn.q'];
    const model = perturb(loraDrop({ rank: 2, keep, where: ['q', 'v'] })(base), 1);
    const at = (path: string): Tensor => [...tensors(model)].find((t) => t.path === path)!.tensor;
    expect(paramOf(at('trunk.blocks.0.attn.v.loraDrop.A'))).toBe(paramOf(at('trunk.blocks.1.attn.v.loraDrop.A')));
    expect(paramOf(at('trunk.blocks.0.attn.q.loraDrop.A'))).not.toBe(paramOf(at('trunk.blocks.1.attn.q.loraDrop.A')));
    expect(trainable(model).size).toBe(2 * 3); // own q, shared q, shared v
  });
  it('counts every shared pair once, and refuses to share between layers of different sizes', () => {
    const site = (path: string, out: number) => ({ path, shape: [out, 8] });
    const c = { rank: 2, keep: ['b.q'] };
    expect(loraDrop.method.count(['a.q', 'b.q', 'c.q'].map((p) => site(p, 8)) as never, c)).toEqual({
      train: 2 * 2 * 16,
      stored: 2 * 2 * 16,
    });
    expect(() => loraDrop.method.count([site('a.q', 8), site('c.q', 4)] as never, c)).toThrow(
      /loraDrop: c\.q \[4,8\] cannot share a LoRA with a\.q \[8,8\]/,
    );
  });
  it('importance is the share of Σ‖ΔW x‖² over the tokens that are not padding', async () => {
    const model = perturb(lora({ rank: 2, alpha: 3, where: ['q', 'v'] })(base), 3);
    const shares = await importance(model, { engine, batches: [net.batch] });
    expect([...shares.values()].reduce((a, b) => a + b)).toBeCloseTo(1, 12);
    // of block 0, whose input is the normalised embedding: by hand from the network's own layers
    const h = await engine.read(layerAt(base, 'norm', 'trunk.blocks.0.norm1')(embedded(), context(5)));
    const real = rowsOf(h, 8).filter((_, k) => k < 8); // the last two tokens of the second text are padding
    const sum = async (path: string): Promise<number> => {
      const p = await own(engine, model, path);
      return affine(affine(real, p['lora.A']!), p['lora.B']!)
        .flat()
        .reduce((n, v) => n + (1.5 * v) ** 2, 0);
    };
    const [q, v] = [await sum('trunk.blocks.0.attn.q'), await sum('trunk.blocks.0.attn.v')];
    expect(shares.get('trunk.blocks.0.attn.q')! / shares.get('trunk.blocks.0.attn.v')!).toBeCloseTo(q / v, 10);
  });
  it('keeps the most important until their shares reach T', () => {
    const shares = new Map([
      ['a', 0.5],
      ['b', 0.1],
      ['c', 0.3],
      ['d', 0.1],
    ]);
    expect(mostImportant(shares, 0.8)).toEqual(['a', 'c']);
    expect(mostImportant(shares, 0.81)).toEqual(['a', 'c', 'b']);
    expect(mostImportant(shares, 0)).toEqual([]);
    expect(mostImportant(shares, 1)).toEqual(['a', 'c', 'b', 'd']);
  });
  it('the recipe trains briefly, measures, and attaches fresh', async () => {
    const env = { engine, batches: [net.batch], train: (m: Model) => trained(engine, net, m, { total: 2 }) };
    const model = await dropLora(base, env, { rank: 2, where: ['q', 'v'], threshold: 0.5 });
    const own = [...layers(model)].filter(({ layer }) => layer.attached?.method === 'loraDrop');
    expect(own.length).toBe(4);
    expect(apart(await numbersOf(engine, net, model), await numbersOf(engine, net, base))).toBeLessThan(1e-12);
    await expect(dropLora(base, { engine })).rejects.toThrow(/dropLora: it starts with a short training/);
    await expect(importance(lora({ rank: 2 })(base), { engine, batches: [net.batch] })).rejects.toThrow(/every update is zero/);
    await expect(importance(perturb(lora({ rank: 2 })(base), 1), { engine })).rejects.toThrow(/importance: .* give prepare/);
  });
});
/** The small network's embedded text, positions included. */
function embedded(): Tensor {
  const ids = layerAt(base, 'embedding', 'embed')(net.batch.ids, context(5));
  const positions = [...tensors(base)].find(({ path }) => /positions/.test(path))!.tensor;
  return ids.add(positions.slice(0, 0, 5));
}
