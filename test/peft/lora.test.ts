// LoRA against its equation, its initialisations, and two of them on one layer.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import { type Tensor, topological } from '../../core/tensor.ts';
import { context, stochastic } from '../../nn/context.ts';
import type { Model } from '../../nn/layer.ts';
import { tensors } from '../../nn/tree.ts';
import { stack } from '../../peft/combinators.ts';
import { svd } from '../../peft/linalg.ts';
import { merge } from '../../peft/merge.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { gpt2Network, perturb } from '../laws/models.ts';
import { affine, apart, each, flat, layerAt, own, plus, random, rowsOf } from './naive.ts';

const engine = float64();
const { base } = gpt2Network(4);
const Q = 'trunk.blocks.0.attn.q';
const named = (m: Model, name: string): Tensor => [...tensors(m)].find(({ path }) => path === `${Q}.${name}`)!.tensor;

describe('lora', () => {
  for (const [how, rankStabilized, s] of [
    ['α/r', false, 5 / 2],
    ['α/√r', true, 5 / Math.SQRT2],
  ] as const)
    it(`y = W x + b + ${how}·B A drop(x): dropout on the branch only, by hand`, async () => {
      const model = perturb(lora({ rank: 2, alpha: 5, rankStabilized, dropout: 0.5 })(base), 1);
      const x = random(1, [4, 8]);
      const [p, xs] = [await own(engine, model, Q), rowsOf(await engine.read(x), 8)];
      const byHand = (kept: number[][]): number[] =>
        flat(
          plus(
            affine(xs, p.weight!, p.bias![0]),
            each(affine(affine(kept, p['lora.A']!), p['lora.B']!), (v) => s * v),
          ),
        );
      expect(apart(await engine.read(layerAt(model, 'linear', Q)(x, context(4))), byHand(xs))).toBeLessThan(1e-12);
      const y = layerAt(model, 'linear', Q)(x, context(4, { draw: stochastic() }));
      const [mask] = topological([y]).flatMap((t) => (t.source.kind === 'input' ? [t.source.name] : []));
      const m = rng(2).bernoulli(32, 0.5);
      const kept = xs.map((row, t) => row.map((v, i) => 2 * v * m[8 * t + i]!));
      expect(apart(await engine.read(y, { [mask!]: m }), byHand(kept))).toBeLessThan(1e-12);
    });
  it('starts A uniform within 1/√in, or normal with deviation 1/r, and B at zero', async () => {
    const wide = (init: 'kaiming' | 'gaussian') => lora({ rank: 8, init, where: ['q', 'v', 'up', 'down'] })(base);
    const all = async (m: Model, factor: string): Promise<number[]> => {
      const values: number[] = [];
      for (const { path, tensor } of tensors(m))
        if (path.endsWith(`lora.${factor}`) && tensor.shape[1] === 8) values.push(...(await engine.read(tensor)));
      return values;
    };
    const uniform = await all(wide('kaiming'), 'A');
    const [top, spread] = [Math.max(...uniform.map(Math.abs)), (v: number[]) => Math.hypot(...v) / Math.sqrt(v.length)];
    expect(top).toBeLessThanOrEqual(1 / Math.sqrt(8));
    expect(top).toBeGreaterThan(0.98 / Math.sqrt(8));
    // four standard errors of a standard deviation: σ√((κ − 1)/4n), κ = 9/5 for the uniform and 3 for the normal
    const near = (v: number[], sigma: number, kurtosis: number): void =>
      expect(Math.abs(spread(v) - sigma)).toBeLessThan(4 * sigma * Math.sqrt((kurtosis - 1) / (4 * v.length)));
    near(uniform, 1 / Math.sqrt(24), 9 / 5); // an interval 2/√8 wide, over √12
    near(await all(wide('gaussian'), 'A'), 1 / 8, 3);
    expect((await all(wide('gaussian'), 'B')).every((v) => v === 0)).toBe(true);
  });
  it('at the start the gradient goes to B alone', async () => {
    const model = lora({ rank: 2 })(base);
    const y = layerAt(model, 'linear', Q)(random(1, [4, 8]), context(4));
    const [a, b] = grad(y.mul(random(2, [4, 8])).sum(), [named(model, 'lora.A'), named(model, 'lora.B')]);
    expect((await engine.read(a!)).every((v) => v === 0)).toBe(true);
    expect((await engine.read(b!)).every((v) => v !== 0)).toBe(true);
  });
  it('changes a weight by a matrix of rank r', async () => {
    const merged = await engine.read(layerAt(merge(perturb(lora({ rank: 2 })(base), 1)), 'weight', `${Q}.weight`)());
    const before = await engine.read(layerAt(base, 'weight', `${Q}.weight`)());
    const { s } = svd(
      merged.map((v, k) => v - before[k]!),
      8,
      8,
      8,
    );
    expect(s[1]).toBeGreaterThan(1e-3);
    expect(s[2]).toBeLessThan(1e-12);
  });
  it('twice on one layer: the updates add, and each draws a mask of its own, with its own rate', async () => {
    const two = stack(lora({ rank: 2, dropout: 0.5, seed: 1 }), lora({ rank: 1, dropout: 0.25, seed: 2 }))(base);
    const y = layerAt(two, 'linear', Q)(random(1, [4, 8]), context(4, { draw: stochastic() }));
    const drawn = topological([y]).flatMap((t) => (t.source.kind === 'input' ? [t.source] : []));
    expect(new Set(drawn.map((d) => d.name)).size).toBe(2);
    expect(drawn.map((d) => d.fill).sort((a, b) => JSON.stringify(a).localeCompare(JSON.stringify(b)))).toEqual([
      { dist: 'bernoulli', keep: 0.5 },
      { dist: 'bernoulli', keep: 0.75 },
    ]);
    expect(tensorsUnder(two)).toEqual(['lora.A', 'lora.B', 'lora2.A', 'lora2.B']);
  });
  it('refuses ranks, dropouts and alphas that cannot be', () => {
    for (const rank of [0, 9, 1.5])
      expect(() => lora({ rank })(base)).toThrow(/lora: rank .* at trunk\.blocks\.0\.attn\.q must be a whole number from 1 to 8/);
    for (const dropout of [-0.1, 1]) expect(() => lora({ dropout })(base)).toThrow(/lora: dropout/);
    expect(() => lora({ alpha: 0 })(base)).toThrow(/lora: alpha 0 must be positive/);
  });
});
const tensorsUnder = (m: Model): string[] =>
  [...tensors(m)].flatMap(({ path }) => (path.startsWith(`${Q}.lora`) ? [path.slice(Q.length + 1)] : [])).sort();
