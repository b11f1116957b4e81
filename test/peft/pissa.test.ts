// PiSSA and the factorisations it stands on.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { paramOf } from '../../core/tensor.ts';
import { context, quiet } from '../../nn/context.ts';
import { layers, tensors } from '../../nn/tree.ts';
import { product, randomizedSvd, type Svd, svd } from '../../peft/linalg.ts';
import { detach, merge } from '../../peft/merge.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { asLora, pissa } from '../../peft/reparameterized/pissa.ts';
import { sparseMask } from '../../peft/selective/sparseMask.ts';
import { gpt2Network, llamaNetwork, perturb, run } from '../laws/models.ts';
import { affine, apart, flat, layerAt, own, plus, random, rowsOf } from './naive.ts';

const engine = float64();
const sizes = fc.tuple(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 9 }), fc.integer());
const rebuilt = ({ u, s, vt }: Svd, n: number, m: number): Float64Array =>
  product(
    u.map((v, k) => v * s[k % s.length]!),
    vt,
    n,
    s.length,
    m,
  );
const transposed = (a: Float64Array, n: number, m: number): Float64Array => a.map((_, k) => a[(k % n) * m + Math.floor(k / n)]!); // [m, n]
const identity = (k: number): number[] => Array.from({ length: k * k }, (_, i) => (i % (k + 1) === 0 ? 1 : 0));

describe('singular values', () => {
  it('rebuild the matrix from orthonormal directions and descending values (seeded)', () =>
    fc.assert(
      fc.property(sizes, ([n, m, seed]) => {
        const a = Float64Array.from(rng(seed).normal(n * m));
        const k = Math.min(n, m);
        const d = svd(a, n, m, k);
        expect(apart(rebuilt(d, n, m), a)).toBeLessThan(1e-12);
        expect(apart(product(transposed(d.u, n, k), d.u, k, n, k), identity(k))).toBeLessThan(1e-12);
        expect(apart(product(d.vt, transposed(d.vt, k, m), k, m, k), identity(k))).toBeLessThan(1e-12);
        expect([...d.s]).toEqual([...d.s].sort((x, y) => y - x));
      }),
    ));
  it('cut to rank r, are the best approximation: the error is the rest of the values (seeded)', () =>
    fc.assert(
      fc.property(sizes, fc.integer({ min: 1, max: 9 }), ([n, m, seed], r) => {
        const a = Float64Array.from(rng(seed).normal(n * m));
        const k = Math.min(n, m);
        const rank = Math.min(r, k);
        const rest = svd(a, n, m, k).s.slice(rank);
        const near = rebuilt(svd(a, n, m, rank), n, m);
        expect(Math.hypot(...a.map((v, i) => v - near[i]!))).toBeCloseTo(Math.hypot(...rest), 10);
      }),
    ));
  it('randomised: exact where the matrix has no more than that rank, near where its values fall off', () => {
    const r = rng(5);
    const [n, m] = [40, 30];
    const low = product(Float64Array.from(r.normal(n * 3)), Float64Array.from(r.normal(3 * m)), n, 3, m);
    expect(apart(rebuilt(randomizedSvd(low, n, m, 3, 0, r), n, m), low)).toBeLessThan(1e-12);
    const full = svd(Float64Array.from(r.normal(n * m)), n, m, m);
    const falling = rebuilt({ ...full, s: full.s.map((_, k) => 0.5 ** k) }, n, m);
    const [exact, near] = [svd(falling, n, m, 4), randomizedSvd(falling, n, m, 4, 4, r)];
    expect(apart(near.s, exact.s)).toBeLessThan(1e-12);
    expect(apart(rebuilt(near, n, m), rebuilt(exact, n, m))).toBeLessThan(1e-9);
  });
});

describe('pissa', () => {
  const { base } = gpt2Network(4);
  const Q = 'trunk.blocks.0.attn.q';
  const config = { rank: 2, alpha: 3 };
  const S = 3 / 2;
  it('y = W_res x + b + s·B A x, where s·B A are the principal directions of W', async () => {
    const fresh = pissa(config)(base);
    const [before, p] = [await own(engine, base, Q), await own(engine, fresh, Q)];
    const [b, a] = [Float64Array.from(flat(p['pissa.B']!)), Float64Array.from(flat(p['pissa.A']!))];
    const change = product(b, a, 8, 2, 8).map((v) => S * v);
    const w = Float64Array.from(flat(before.weight!));
    expect(
      apart(
        flat(p.weight!),
        w.map((v, i) => v - change[i]!),
      ),
    ).toBeLessThan(1e-12);
    expect(apart(svd(change, 8, 8, 2).s, svd(w, 8, 8, 2).s)).toBeLessThan(1e-12);
    expect(svd(change, 8, 8, 3).s[2]).toBeLessThan(1e-12);
    expect(apart(svd(Float64Array.from(flat(p.weight!)), 8, 8, 6).s, svd(w, 8, 8, 8).s.slice(2))).toBeLessThan(1e-10); // the rest stays in the base

    const model = perturb(fresh, 1);
    const x = random(1, [3, 8]);
    const q = await own(engine, model, Q);
    const xs = rowsOf(await engine.read(x), 8);
    const branch = affine(affine(xs, q['pissa.A']!), q['pissa.B']!).map((row) => row.map((v) => S * v));
    const y = await engine.read(layerAt(model, 'linear', Q)(x, context(3)));
    expect(apart(y, flat(plus(affine(xs, q.weight!, q.bias![0]), branch)))).toBeLessThan(1e-12);
  });
  it('gives both factors half of each singular value: √(σ/s) long', async () => {
    const p = await own(engine, pissa(config)(base), Q);
    const w = Float64Array.from(flat((await own(engine, base, Q)).weight!));
    const wanted = [...svd(w, 8, 8, 2).s].map((v) => Math.sqrt(v / S));
    expect(
      apart(
        p['pissa.A']!.map((row) => Math.hypot(...row)),
        wanted,
      ),
    ).toBeLessThan(1e-12);
    expect(
      apart(
        [0, 1].map((k) => Math.hypot(...p['pissa.B']!.map((row) => row[k]!))),
        wanted,
      ),
    ).toBeLessThan(1e-12);
  });
  it('becomes plain LoRA of twice the rank on the untouched base, with the same outputs', async () => {
    const net = llamaNetwork(3);
    for (const [options, alpha] of [
      [config, 6],
      [{ ...config, rankStabilized: true, iterations: 4 }, 3 * Math.SQRT2],
    ] as const) {
      const under = perturb(pissa({ ...options, where: ['q', 'down'] })(net.base), 5);
      const model = perturb(lora({ rank: 1, where: 'q' })(under), 6); // another method on top stays
      const plain = asLora(model);
      const methods = [...layers(plain)].flatMap(({ layer }) => (layer.attached === null ? [] : [layer.attached]));
      expect(methods.map((m) => m.method).sort()).toEqual(Array(6).fill('lora'));
      expect(
        methods
          .filter((m) => (m.application.config as { rank: number }).rank === 4)
          .map((m) => (m.application.config as { alpha: number }).alpha),
      ).toEqual(Array(4).fill(alpha));
      const output = (m: typeof model) => engine.read(run(net, m, quiet).output);
      expect(apart(await output(plain), (await output(model)).slice())).toBeLessThan(1e-10);
      const frozen = new Set([...tensors(net.base)].map(({ tensor }) => tensor));
      for (const { path, tensor } of tensors(plain)) if (!path.includes('.lora')) expect(frozen.has(tensor), path).toBe(true); // the very weights of the base
    }
  });
  it('a computed weight is read by prepare; detached, the weight is the one it found', async () => {
    const computed = merge(perturb(lora(config)(base), 2));
    expect(() => pissa(config)(computed)).toThrow(/has to be computed before its numbers can be read/);
    const model = (await pissa(config).prepare(computed, { engine }))(computed);
    const x = random(1, [3, 8]);
    const at = async (m: typeof base) => (await engine.read(layerAt(m, 'linear', Q)(x, context(3)))).slice();
    expect(apart(await at(model), await at(computed))).toBeLessThan(1e-12);
    expect([...(await at(detach(model)))]).toEqual([...(await at(computed))]);
  });
  it('refuses what it would silently undo, and a rank beyond the weight', () => {
    expect(() => pissa(config)(lora(config)(base))).toThrow(/lora is already attached here, .* replaces the weight beneath/);
    expect(() => pissa(config)(sparseMask()(base))).toThrow(/sparseMask is already attached here/);
    expect(() => pissa({ rank: 9 })(base)).toThrow(/pissa: rank 9/);
    expect(() => asLora(base)).toThrow(/no layer of this model has pissa/);
    expect([...tensors(pissa(config)(base))].filter(({ tensor }) => paramOf(tensor) !== null).length).toBe(8);
  });
});
