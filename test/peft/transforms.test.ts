// Kronecker, Cayley, Walsh–Hadamard and reordering, against dense matrices; their derivatives by central differences.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { sample } from '../../peft/select.ts';
import {
  cayley,
  factorization,
  hadamard,
  kron,
  neumann,
  shuffled,
  skew,
  timesBlocks,
  timesKron,
  walshHadamard,
} from '../../peft/transforms.ts';
import { apart, flat, random, rowsOf } from './naive.ts';
import { build, determinant, eye, inverse, off, product, transpose, zip } from './structured.ts';

const engine = float64();
const matrix = async (t: Tensor): Promise<number[][]> => rowsOf(await engine.read(t), t.shape.at(-1)!);
const numbers = (seed: number, n: number, scale = 1): Float64Array => Float64Array.from(rng(seed).normal(n), (v) => v * scale);
/** Relative gap between a gradient along a direction and the central difference. */
async function gap(f: (x: Tensor) => Tensor, at: Float64Array, shape: readonly number[], seed: number): Promise<number> {
  const [w, d] = [random(seed, f(leaf(at, shape)).shape), numbers(seed + 1, at.length)];
  const value = (t: number): Promise<number> =>
    engine.item(
      f(
        leaf(
          at.map((v, k) => v + t * d[k]!),
          shape,
        ),
      )
        .mul(w)
        .sum(),
    );
  const x = leaf(at, shape);
  const g = Array.from(await engine.read(grad(f(x).mul(w).sum(), [x])[0]!));
  const h = 1e-5;
  const measured = ((await value(h)) - (await value(-h))) / (2 * h);
  return Math.abs(measured - g.reduce((s, v, k) => s + v * d[k]!, 0)) / Math.hypot(...g, 1e-9);
}

describe('kron', () => {
  it('is the definition, and the product with it without it (seeded)', () =>
    fc.assert(
      fc.asyncProperty(
        fc.integer(),
        fc.tuple(
          fc.integer({ min: 1, max: 3 }),
          fc.integer({ min: 1, max: 4 }),
          fc.integer({ min: 1, max: 3 }),
          fc.integer({ min: 1, max: 4 }),
        ),
        async (seed, [l, m, k, n]) => {
          const [a, b] = [leaf(numbers(seed, l * m), [l, m]), leaf(numbers(seed + 1, k * n), [k, n])];
          const [A, B] = [await matrix(a), await matrix(b)];
          const dense = build(l * k, m * n, (i, j) => A[Math.floor(i / k)]![Math.floor(j / n)]! * B[i % k]![j % n]!);
          expect(off(await matrix(kron(a, b)), dense)).toBe(0);
          const x = leaf(numbers(seed + 2, 2 * m * n), [2, m * n]);
          expect(apart(await engine.read(timesKron(x, a, b)), flat(product(await matrix(x), transpose(dense))))).toBeLessThan(1e-13);
        },
      ),
      { numRuns: 12 },
    ));
  it('(A ⊗ B)(C ⊗ D) = AC ⊗ BD', async () => {
    const [a, b, c, d] = [random(1, [2, 3]), random(2, [3, 2]), random(3, [3, 2]), random(4, [2, 4])];
    expect(off(await matrix(kron(a, b).matmul(kron(c, d))), await matrix(kron(a.matmul(c), b.matmul(d))))).toBeLessThan(1e-13);
  });
  it('splits dimensions as LyCORIS does', () => {
    expect([768, 3072, 2304, 7, 1].map((n) => factorization(n))).toEqual([
      [24, 32],
      [48, 64],
      [48, 48],
      [1, 7],
      [1, 1],
    ]);
    expect([factorization(768, 4), factorization(1024, 4), factorization(2304, 5), factorization(12, 5)]).toEqual([
      [4, 192],
      [4, 256],
      [4, 576],
      [3, 4],
    ]);
  });
});

describe('cayley', () => {
  it('is (I − Q)(I + Q)⁻¹, orthogonal with determinant 1, up to 170° (seeded)', () =>
    fc.assert(
      fc.asyncProperty(fc.integer(), fc.integer({ min: 2, max: 5 }), fc.double({ min: 0, max: 3, noNaN: true }), async (seed, b, size) => {
        const v = numbers(seed, (b * (b - 1)) / 2, size);
        const q = skew(leaf(v, [1, v.length]), b);
        const [Q, R] = [await matrix(q), await matrix(cayley(q))];
        expect(
          off(
            transpose(Q),
            Q.map((row) => row.map((x) => -x)),
          ),
        ).toBe(0);
        expect(
          off(
            R,
            product(
              zip(eye(b), Q, (x, y) => x - y),
              inverse(zip(eye(b), Q, (x, y) => x + y)),
            ),
          ),
        ).toBeLessThan(1e-9);
        expect(off(product(R, transpose(R)), eye(b))).toBeLessThan(1e-9);
        expect(determinant(R)).toBeCloseTo(1, 8);
      }),
      { numRuns: 15 },
    ));
  it('has the derivative of the exact inverse', async () => {
    expect(await gap((v) => cayley(skew(v, 4)), numbers(5, 12, 0.7), [2, 6], 6)).toBeLessThan(1e-8);
  });
  it('in PEFT’s series: I + 2Q + 2Q² + 2Q³ + Q⁴, close to the transpose for small Q and only there', async () => {
    const at = async (size: number): Promise<number> => {
      const q = skew(leaf(numbers(8, 6, size), [1, 6]), 4);
      return off(await matrix(neumann(q, 5)), transpose(await matrix(cayley(q))));
    };
    const q = skew(leaf(numbers(8, 6, 0.5), [1, 6]), 4);
    const Q = await matrix(q);
    const [Q2, Q3, Q4] = [product(Q, Q), product(product(Q, Q), Q), product(product(Q, Q), product(Q, Q))];
    const series = eye(4).map((row, i) => row.map((v, j) => v + 2 * (Q[i]![j]! + Q2[i]![j]! + Q3[i]![j]!) + Q4[i]![j]!));
    expect(off(await matrix(neumann(q, 5)), series)).toBeLessThan(1e-14);
    expect(await at(0.01)).toBeLessThan(1e-6);
    expect(await at(0.5)).toBeGreaterThan(1e-2);
  });
  it('times blocks is times the block-diagonal matrix', async () => {
    const [x, r] = [random(1, [2, 3, 6]), random(2, [3, 2, 2])];
    const R = await matrix(r);
    const dense = build(6, 6, (i, j) => (Math.floor(i / 2) === Math.floor(j / 2) ? R[i]![j % 2]! : 0));
    expect(apart(await engine.read(timesBlocks(x, r)), flat(product(await matrix(x), dense)))).toBeLessThan(1e-13);
  });
});

describe('Walsh–Hadamard', () => {
  it('is the recursive matrix [[H, H], [H, −H]]', () => {
    for (const n of [1, 2, 4, 16]) {
      const half = rowsOf(hadamard(n), n);
      const twice = [...half.map((r) => [...r, ...r]), ...half.map((r) => [...r, ...r.map((v) => -v)])];
      expect(rowsOf(hadamard(2 * n), 2 * n)).toEqual(twice);
    }
  });
  it('twice is n times the identity, and equals the dense product', async () => {
    for (const n of [2, 8, 32]) {
      const x = random(n, [n]);
      const v = [...(await engine.read(x))];
      expect(
        apart(
          await engine.read(walshHadamard(walshHadamard(x))),
          v.map((e) => n * e),
        ),
      ).toBeLessThan(1e-13);
      expect(
        apart(
          await engine.read(walshHadamard(x)),
          rowsOf(hadamard(n), n).map((row) => row.reduce((s, h, k) => s + h * v[k]!, 0)),
        ),
      ).toBeLessThan(1e-13);
    }
    expect(() => walshHadamard(random(1, [6]))).toThrow(/6 numbers are not a power of two/);
  });
  it('a reordering is undone by its derivative, not searched for', async () => {
    const order = rng(3).permutation(9);
    const x = leaf(numbers(4, 9), [9]);
    const v = await engine.read(x);
    expect([...(await engine.read(shuffled(x, order)))]).toEqual(order.map((p) => v[p]));
    const w = await engine.read(random(5, [9]));
    const g = await engine.read(
      grad(
        shuffled(x, order)
          .mul(random(5, [9]))
          .sum(),
        [x],
      )[0]!,
    );
    expect([...g]).toEqual([...v.keys()].map((k) => w[order.indexOf(k)]));
  });
});

describe('sample', () => {
  it('gives k different numbers below n, every number equally often', () => {
    for (const [k, n] of [
      [0, 3],
      [3, 3],
      [2, 50],
    ] as const) {
      const s = sample(k, n, rng(1));
      expect(new Set(s).size).toBe(k);
      expect(s.every((v) => Number.isInteger(v) && v >= 0 && v < n)).toBe(true);
    }
    const counts = new Array<number>(6).fill(0);
    const r = rng(2);
    for (let t = 0; t < 3000; t++) for (const v of sample(2, 6, r)) counts[v]!++;
    const sigma = Math.sqrt(3000 * (1 / 3) * (2 / 3));
    for (const c of counts) expect(Math.abs(c - 1000)).toBeLessThan(4.5 * sigma);
  });
});
