// DoRA against its equation in plain arithmetic: lengths, directions, and what no gradient passes through.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import { leaf, paramOf, stateOf, type Tensor, topological } from '../../core/tensor.ts';
import { context, stochastic } from '../../nn/context.ts';
import { freeze } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { mapTensors, tensors } from '../../nn/tree.ts';
import { merge } from '../../peft/merge.ts';
import { dora } from '../../peft/reparameterized/dora.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { generic, gpt2Network, perturb } from '../laws/models.ts';
import { affine, apart, each, flat, layerAt, type Matrix, own, plus, random, rowsOf, scaled } from './naive.ts';

const engine = float64();
const { base } = gpt2Network(4); // biases are not zero
const Q = 'trunk.blocks.0.attn.q';
const S = 3 / 2;
const config = { rank: 2, alpha: 3 };
const model = perturb(dora(config)(base), 2);
const named = (m: Model, name: string): Tensor => [...tensors(m)].find(({ path }) => path === `${Q}.${name}`)!.tensor;
const product = (b: Matrix, a: Matrix): number[][] => b.map((row) => a[0]!.map((_, j) => row.reduce((s, v, k) => s + v * a[k]![j]!, 0)));
const lengths = (m: Matrix): number[] => m.map((row) => Math.hypot(...row));

async function parts(m: Model): Promise<{ w: Matrix; b: number[]; v: number[][]; ba: number[][]; m: number[] }> {
  const p = await own(engine, m, Q);
  const ba = each(product(p['dora.B']!, p['dora.A']!), (x) => S * x);
  return { w: p.weight!, b: p.bias![0]!, ba, v: plus(p.weight!, ba), m: p['dora.m']![0]! };
}

describe('dora', () => {
  it('y = diag(m/‖V‖) V x + b, by hand', async () => {
    const x = random(1, [5, 8]);
    const y = await engine.read(layerAt(model, 'linear', Q)(x, context(5)));
    const { v, m, b } = await parts(model);
    const n = lengths(v);
    const wanted = affine(
      rowsOf(await engine.read(x), 8),
      scaled(v, (i) => m[i]! / n[i]!),
      b,
    );
    expect(apart(y, flat(wanted))).toBeLessThan(1e-12);
  });
  it('starts with the lengths of the base rows; the rows of the merged weight have length m', async () => {
    const fresh = await parts(dora(config)(base));
    expect(apart(fresh.m, lengths(fresh.w))).toBeLessThan(1e-15);
    const merged = rowsOf(await engine.read(layerAt(merge(model), 'weight', `${Q}.weight`)()), 8);
    expect(apart(lengths(merged), (await parts(model)).m.map(Math.abs))).toBeLessThan(1e-12);
  });
  it('∂L/∂m_i = g_i·(V x)_i/n_i, and A and B get (m/n) times the gradient of LoRA', async () => {
    const x = random(1, [5, 8]);
    const g = random(2, [5, 8]);
    const loss = layerAt(model, 'linear', Q)(x, context(5)).mul(g).sum();
    const [A, B, m] = ['A', 'B', 'm'].map((k) => stateOf(paramOf(named(model, `dora.${k}`))!)) as [Tensor, Tensor, Tensor];
    const got = await Promise.all(grad(loss, [m, A, B]).map((t) => engine.read(t)));
    const p = await parts(model);
    const n = lengths(p.v);
    const [xs, gs] = [rowsOf(await engine.read(x), 8), rowsOf(await engine.read(g), 8)];
    const vx = affine(xs, p.v);
    const dm = n.map((length, i) => gs.reduce((s, row, t) => s + (row[i]! * vx[t]![i]!) / length, 0));
    expect(apart(got[0]!, dm)).toBeLessThan(1e-12);
    // G = Σ_t (m/n ⊙ g) xᵀ as if the weight were V;  ∂A = s Bᵀ G,  ∂B = s G Aᵀ: nothing through n
    const G = n.map((length, i) => xs[0]!.map((_, j) => gs.reduce((s, row, t) => s + (row[i]! * p.m[i]! * xs[t]![j]!) / length, 0)));
    const [a, b] = [rowsOf(await engine.read(A), 8), rowsOf(await engine.read(B), 2)];
    const transposed = (t: Matrix): number[][] => t[0]!.map((_, j) => t.map((row) => row[j]!));
    expect(apart(got[1]!, flat(each(product(transposed(b), G), (v) => S * v)))).toBeLessThan(1e-12);
    expect(apart(got[2]!, flat(each(product(G, transposed(a)), (v) => S * v)))).toBeLessThan(1e-12);
  });
  it('in training the base sees x, and everything that DoRA adds sees the dropped x', async () => {
    const wet = perturb(dora({ ...config, dropout: 0.5 })(base), 2);
    const x = random(1, [5, 8]);
    const y = layerAt(wet, 'linear', Q)(x, context(5, { draw: stochastic() }));
    const found = topological([y]).flatMap((t) => (t.source.kind === 'input' ? [t.source.name] : []));
    expect(found.length).toBe(1);
    const mask = rng(3).bernoulli(40, 0.5);
    const got = await engine.read(y, { [found[0]!]: mask });
    const { w, b, v, m } = await parts(wet);
    const n = lengths(v);
    const xs = rowsOf(await engine.read(x), 8);
    const kept = xs.map((row, t) => row.map((value, i) => 2 * value * mask[t * 8 + i]!));
    const added = plus(
      affine(
        kept,
        scaled(v, (i) => m[i]! / n[i]!),
      ),
      each(affine(kept, w), (value) => -value),
    );
    expect(apart(got, flat(plus(affine(xs, w, b), added)))).toBeLessThan(1e-12);
  });
  it('on top of LoRA its lengths are those of the weight in use; they come from prepare', async () => {
    const under = perturb(lora(config)(base), 8);
    const both = (await dora(config).prepare(under, { engine }))(under);
    const merged = rowsOf(await engine.read(layerAt(merge(under), 'weight', `${Q}.weight`)()), 8);
    expect(apart(await engine.read(named(both, 'dora.m')), lengths(merged))).toBeLessThan(1e-12);
    expect(() => dora(config)(under)).toThrow(/dora: the weight of trunk\.blocks\.0\.attn\.q has to be computed/);
  });
  it('a row of zeros stays finite, forward and backward', async () => {
    const r = rng(1);
    const dead = freeze(generic(base, r));
    const zero = mapTensors(dead, (t, path) => (path === `${Q}.weight` ? leaf(new Float64Array(64), [8, 8]) : t));
    const m = dora(config)(zero);
    const y = layerAt(m, 'linear', Q)(random(1, [5, 8]), context(5));
    const all = [
      y,
      ...grad(
        y.sum(),
        ['A', 'B', 'm'].map((k) => named(m, `dora.${k}`)),
      ),
    ];
    for (const t of all) expect((await engine.read(t)).every(Number.isFinite)).toBe(true);
  });
  it('decays A and B but not m', () => {
    const meta = ['A', 'B', 'm'].map((k) => paramOf(named(model, `dora.${k}`))!.decay);
    expect(meta).toEqual([true, true, false]);
  });
  it('refuses a rank the weight has no room for, a negative alpha, and a dropout of 1', () => {
    expect(() => dora({ rank: 9 })(base)).toThrow(/dora: rank 9 at trunk\.blocks\.0\.attn\.q must be a whole number from 1 to 8/);
    expect(() => dora({ alpha: -1 })(base)).toThrow(/dora: alpha -1 must be positive/);
    expect(() => dora({ dropout: 1 })(base)).toThrow(/dora: dropout 1 must be at least 0 and below 1/);
  });
});
