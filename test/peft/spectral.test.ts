// FourierFT against the inverse Fourier transform, and intrinsic dimensions against dense projections.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { openEngine } from '../../core/open.ts';
import { rng } from '../../core/rng.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import type { Model } from '../../nn/layer.ts';
import { tensors, trainable } from '../../nn/tree.ts';
import { merge } from '../../peft/merge.ts';
import { did } from '../../peft/reparameterized/did.ts';
import { fastfood } from '../../peft/reparameterized/fastfood.ts';
import { angles, fourierft } from '../../peft/reparameterized/fourierft.ts';
import { said } from '../../peft/reparameterized/said.ts';
import { hadamard } from '../../peft/transforms.ts';
import { llamaNetwork, perturb } from '../laws/models.ts';
import { apart, random, rowsOf, trained } from './naive.ts';
import { build, fromDense, llama3B, zip } from './structured.ts';

const engine = float64();
const llama = llamaNetwork(3).base; // v is [4, 8], down [8, 12]
const where = ['q', 'v', 'down'];
const [V, DOWN] = ['trunk.blocks.1.attn.v', 'trunk.blocks.0.mlp.down'];

describe('fourierft', () => {
  /** Re ifft2 of a real spectrum: rows, then columns, with complex numbers. */
  const ifft2 = (F: number[][]): number[][] => {
    const [m, n] = [F.length, F[0]!.length];
    const rows = F.map((row) =>
      Array.from({ length: n }, (_, k) =>
        row.reduce(
          ([re, im], f, v) => [re + f * Math.cos((2 * Math.PI * k * v) / n), im + f * Math.sin((2 * Math.PI * k * v) / n)] as const,
          [0, 0] as readonly [number, number],
        ),
      ),
    );
    return build(
      m,
      n,
      (j, k) =>
        rows.reduce(
          (s, row, u) => s + row[k]![0] * Math.cos((2 * Math.PI * j * u) / m) - row[k]![1] * Math.sin((2 * Math.PI * j * u) / m),
          0,
        ) /
        (m * n),
    );
  };
  for (const site of [V, DOWN])
    it(`W' = W + α·Re ifft2(F) at ${site}, attached and folded`, async () => {
      const model = perturb(fourierft({ coefficients: 9, scaling: 30, where })(llama), 2, 0.5);
      const d = await fromDense(engine, model, site, 'fourierft', (w, p) => {
        const F = build(w.length, w[0]!.length, () => 0);
        for (const [l, c] of p.c![0]!.entries()) F[p.u![0]![l]!]![p.v![0]![l]!] = c;
        expect(F.flat().filter((f) => f !== 0).length).toBe(9); // nine different places
        return zip(w, ifft2(F), (x, y) => x + 30 * y);
      });
      expect([d.attached < 1e-12, d.folded < 1e-12]).toEqual([true, true]);
    });
  it('starts at N(0, 1) as PEFT does, or at zero', async () => {
    const starts = (init: 'normal' | 'zero'): number[] =>
      [...trainable(fourierft({ coefficients: 30, init, where: 'q' })(llama)).keys()].flatMap((p) => [...p.value]);
    expect(starts('zero').every((v) => v === 0)).toBe(true);
    const c = starts('normal');
    expect(Math.abs(c.reduce((s, v) => s + v * v, 0) / c.length - 1)).toBeLessThan(4 * Math.sqrt(2 / c.length)); // χ²: four standard errors
    expect([fourierft.method.startsAsBase({ init: 'normal' }), fourierft.method.startsAsBase({ init: 'zero' })]).toEqual(['no', 'close']);
  });
  it('keeps its angles exact in float32 for layers of thousands', async () => {
    const n = 8192; // j·u reaches 2²⁶, beyond the whole numbers of float32
    const u = leaf([n - 3], [1]);
    await using single = await openEngine({ engine: 'simd' });
    const a = await single.read(angles(n, u));
    for (let j = 0; j < n; j += 13) expect(Math.abs(Math.sin(a[j]! / 2 - (Math.PI * ((j * (n - 3)) % n)) / n))).toBeLessThan(1e-6); // equal up to full turns
  });
  it('counts n for each weight', () => {
    const count = (coefficients: number) => fourierft.method.count(llama3B('linear'), { ...fourierft.method.defaults, coefficients });
    expect([count(1000).train, count(5000)]).toEqual([56_000, { train: 280_000, stored: 840_000 }]);
    expect(() => fourierft({ coefficients: 65, where: 'q' })(llama)).toThrow(
      /fourierft: 65 coefficients at trunk\.blocks\.0\.attn\.q: its spectrum has 64 places/,
    );
  });
});

describe('intrinsic dimension', () => {
  const weights = ['q.weight', 'v.weight', 'norm1.weight'];
  const changes = async (m: Model): Promise<Map<string, number[]>> => {
    const before = new Map([...tensors(llama)].map(({ path, tensor }) => [path, tensor]));
    const found = new Map<string, number[]>();
    for (const { path, tensor } of tensors(merge(m))) {
      const d = [...(await engine.read(tensor.sub(before.get(path)!)))];
      if (d.some((v) => v !== 0)) found.set(path, d);
    }
    return found;
  };
  it('did: every weight moves by R z, one z for all', async () => {
    const model = perturb(did({ dim: 5, projection: 4, where: weights })(llama), 3);
    const [z] = [...trainable(model).keys()];
    expect(trained(model)).toBe(5);
    const all = await changes(model);
    expect(all.size).toBe(6);
    for (const [path, d] of all) {
      const R = rowsOf(
        rng(4)
          .split(`did ${path}`)
          .normal(d.length * 5, 0.01),
        5,
      );
      expect(
        apart(
          d,
          R.map((row) => row.reduce((s, r, k) => s + r * z!.value[k]!, 0)),
        ),
      ).toBeLessThan(1e-9);
    }
  });
  it('said: every weight moves by λ·P z, P as a dense product of its five factors', async () => {
    const model = perturb(said({ dim: 18, projection: 4, where: weights })(llama), 3);
    const values = new Map([...trainable(model)].map(([p, path]) => [path, p.value]));
    const z = [...values].find(([path]) => path.endsWith('.z'))![1];
    expect([z.length, trained(model)]).toEqual([12, 18]); // six weights, six λ
    for (const [path, d] of await changes(model)) {
      const ll = 2 ** Math.ceil(Math.log2(d.length));
      const r = rng(4).split(`said ${path}`);
      const B = r.split('B').bernoulli(ll, 0.5);
      const [G, order] = [r.split('G').normal(ll), r.split('Π').permutation(ll)];
      const H = rowsOf(hadamard(ll), ll);
      const times = (v: ArrayLike<number>): number[] => H.map((row) => row.reduce((s, h, k) => s + h * v[k]!, 0));
      const mixed = times(Array.from({ length: ll }, (_, k) => (k < z.length ? z[k]! * (2 * B[k]! - 1) : 0)));
      const y = times(order.map((p, k) => G[k]! * mixed[p]!));
      const scale = values.get(`${path}.said.lambda`)![0]! / (Math.sqrt(ll * G.reduce((s, g) => s + g * g, 0)) * Math.sqrt(d.length / ll));
      expect(
        apart(
          d,
          y.slice(0, d.length).map((v) => v * scale),
        ),
      ).toBeLessThan(1e-9);
    }
  });
  it('Fastfood keeps lengths in the mean, is linear, and has its transpose as derivative', async () => {
    const P = fastfood([24, 40], 1, 'a');
    const ratios = await Promise.all(
      Array.from(
        { length: 12 },
        async (_, k) => Math.hypot(...(await engine.read(P(random(k, [50]))))) / Math.hypot(...(await engine.read(random(k, [50])))),
      ),
    );
    expect(ratios.reduce((a, b) => a + b) / 12).toBeGreaterThan(0.9);
    expect(ratios.reduce((a, b) => a + b) / 12).toBeLessThan(1.1);
    const [z, w, y] = [random(1, [50]), random(2, [50]), random(3, [24, 40])];
    const read = async (t: Tensor): Promise<number[]> => [...(await engine.read(t))];
    expect(apart(await read(P(z.mul(2).add(w))), await read(P(z).mul(2).add(P(w))))).toBeLessThan(1e-12);
    const g = grad(P(z).mul(y).sum(), [z])[0]!; // Pᵀ y
    expect(await engine.item(g.mul(w).sum())).toBeCloseTo(await engine.item(P(w).mul(y).sum()), 9);
    expect(await read(fastfood([24, 40], 1, 'a')(z))).toEqual(await read(P(z)));
    expect(await read(fastfood([24, 40], 1, 'b')(z))).not.toEqual(await read(P(z)));
  });
  it('refuses dimensions that its gains use up', () => {
    expect(() => said({ dim: 6, where: weights })(llama)).toThrow(/said: dim 6 leaves nothing beside one gain for each of 6 weights/);
    expect(() => did({ dim: 0, where: weights })(llama)).toThrow(/did: dim 0 must be a whole number/);
  });
});
