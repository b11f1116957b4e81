// VeRA: one pair of random matrices for all layers, cut to size, against its equation in plain arithmetic.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { paramOf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import type { Model } from '../../nn/layer.ts';
import { tensors, trainable } from '../../nn/tree.ts';
import { vera } from '../../peft/reparameterized/vera.ts';
import { llamaNetwork, perturb } from '../laws/models.ts';
import { affine, apart, flat, layerAt, own, plus, random, rowsOf, scaled, trained } from './naive.ts';

const engine = float64();
const { base } = llamaNetwork(2); // v has one head of width 4, the feed-forward 12
const where = ['q', 'v', 'up', 'down'];
const fresh = vera({ rank: 6, where })(base);
const model = perturb(fresh, 3);
const named = (m: Model, path: string): Tensor => [...tensors(m)].find((t) => t.path === path)!.tensor;

describe('vera', () => {
  for (const [site, out, into] of [
    ['trunk.blocks.0.attn.q', 8, 8],
    ['trunk.blocks.1.attn.v', 4, 8],
    ['trunk.blocks.0.mlp.up', 12, 8],
    ['trunk.blocks.1.mlp.down', 8, 12],
  ] as const)
    it(`y = W x + λ_b ⊙ B(λ_d ⊙ A x) at ${site}, with the first ${into} columns of A and ${out} rows of B`, async () => {
      const x = random(1, [3, into]);
      const y = await engine.read(layerAt(model, 'linear', site)(x, context(3)));
      const p = await own(engine, model, site);
      const xs = rowsOf(await engine.read(x), into);
      const [A, B] = [p['vera.A']!, p['vera.B']!];
      expect([A.length, A[0]!.length, B.length, B[0]!.length]).toEqual([6, 12, 12, 6]);
      const inner = scaled(
        affine(
          xs,
          A.map((row) => row.slice(0, into)),
        ),
        (_, k) => p['vera.lambdaD']![0]![k]!,
      );
      const added = scaled(affine(inner, B.slice(0, out)), (_, i) => p['vera.lambdaB']![0]![i]!);
      expect(apart(y, flat(plus(affine(xs, p.weight!), added)))).toBeLessThan(1e-12);
    });
  it('keeps A and B once for all layers, frozen, within the Kaiming bounds', () => {
    for (const [name, bound] of [
      ['A', Math.sqrt(6 / 12)],
      ['B', Math.sqrt(6 / 6)],
    ] as const) {
      const all = [...tensors(fresh)].filter(({ path }) => path.endsWith(`.vera.${name}`)).map(({ tensor }) => tensor);
      expect(all.length).toBe(8);
      expect(new Set(all).size).toBe(1);
      const s = all[0]!.source;
      if (s.kind !== 'leaf') throw new Error('A and B are frozen numbers');
      const far = Math.max(...Array.from(s.data, Math.abs));
      expect(far).toBeLessThanOrEqual(bound);
      expect(far).toBeGreaterThan(0.9 * bound);
    }
  });
  it('draws A and B from the seed', () => {
    const first = (seed: number): number[] => {
      const s = named(vera({ rank: 6, where, seed })(base), 'trunk.blocks.0.attn.q.vera.A').source;
      return s.kind === 'leaf' ? [...s.data] : [];
    };
    expect(first(1)).toEqual(first(1));
    expect(first(1)).not.toEqual(first(2));
  });
  it('trains rank + out at each layer, and stores A and B besides', () => {
    const n = 2 * (4 * 6 + 8 + 4 + 12 + 8);
    expect(trained(fresh)).toBe(n);
    const sites = where.flatMap((w) =>
      [0, 1].map((b) => ({ shape: layerAt(base, 'weight', `trunk.blocks.${b}.${'qv'.includes(w) ? 'attn' : 'mlp'}.${w}.weight`)().shape })),
    );
    expect(vera.method.count(sites as never, { rank: 6 })).toEqual({ train: n, stored: n + 6 * 12 + 12 * 6 });
  });
  it('starts with λ_b = 0 and λ_d = 0.1, and at first λ_d has no gradient', async () => {
    const p = await own(engine, fresh, 'trunk.blocks.0.attn.q');
    expect(p['vera.lambdaB']!.flat().every((v) => v === 0)).toBe(true);
    expect(p['vera.lambdaD']!.flat().every((v) => v === Math.fround(0.1))).toBe(true);
    const y = layerAt(fresh, 'linear', 'trunk.blocks.0.attn.q')(random(1, [3, 8]), context(3));
    const [d, b] = grad(
      y.mul(random(2, [3, 8])).sum(),
      ['lambdaD', 'lambdaB'].map((k) => named(fresh, `trunk.blocks.0.attn.q.vera.${k}`)),
    );
    expect((await engine.read(d!)).every((v) => v === 0)).toBe(true);
    expect((await engine.read(b!)).every((v) => v !== 0)).toBe(true);
  });
  it('may have a rank above the width, but a whole one', () => {
    expect([...trainable(vera({ rank: 50 })(base)).keys()].some((p) => p.shape[0] === 50)).toBe(true);
    expect(() => vera({ rank: 0 })(base)).toThrow(/vera: rank 0 must be a whole number, 1 or more/);
    expect(paramOf(named(fresh, 'trunk.blocks.0.attn.q.vera.A'))).toBeNull();
  });
});
