// Cases for core/ops/sparse.ts: places as rows of columns, defined by a dense matrix of zeros and values.
import fc from 'fast-check';
import * as sparse from '../../core/ops/sparse.ts';
import { rng } from '../../core/rng.ts';
import { type Shape, table } from '../../core/shape.ts';
import { between, type Case, instance, type Operand, operand, seeds, shapes } from './arbitraries.ts';
import { type Nd, nd } from './naive.ts';

const real = between(-2, 2);
const integers = (data: readonly number[]): Operand => ({ shape: [data.length], data: Float64Array.from(data), kind: 'integer' });

/** Some places in a table of this shape, at least one: flat positions, row starts and columns. */
function places(shape: Shape, seed: number): { flat: number[]; start: Operand; col: Operand } {
  const { rows, cols } = table(shape);
  const r = rng(seed).split('places');
  const k = 1 + r.below(rows * cols);
  const flat = r
    .permutation(rows * cols)
    .slice(0, k)
    .sort((a, b) => a - b);
  const start = Array.from({ length: rows + 1 }, (_, row) => flat.filter((p) => p < row * cols).length);
  return { flat, start: integers(start), col: integers(flat.map((p) => p % cols)) };
}
const taken = (x: Nd, flat: readonly number[]): Nd => nd([flat.length], ([j]) => x.data[flat[j!]!]!);

export const sparseCases: readonly Case[] = [
  {
    name: 'sparseAdd',
    of: fc.tuple(shapes, seeds).map(([shape, seed]) => {
      const { flat, start, col } = places(shape, seed);
      return instance({
        operands: [operand(shape, real, seed), start, col, operand([flat.length], real, seed + 1)],
        apply: ([w, s, c, v]) => sparse.sparseAdd(w!, { start: s!, col: c! }, v!),
        naive: ([w, , , v]) => {
          const y = { shape, data: w!.data.slice() };
          for (const [j, p] of flat.entries()) y.data[p] = y.data[p]! + v!.data[j]!;
          return y;
        },
        depth: 1,
        scale: () => 4,
      });
    }),
  },
  {
    name: 'sparseTake',
    of: fc.tuple(shapes, seeds).map(([shape, seed]) => {
      const { flat, start, col } = places(shape, seed);
      return instance({
        operands: [operand(shape, real, seed), start, col],
        apply: ([x, s, c]) => sparse.sparseTake(x!, { start: s!, col: c! }),
        naive: ([x]) => taken(x!, flat),
        depth: 0,
      });
    }),
  },
  {
    name: 'sparseTake:product', // of aᵀb + c, whose dense form is never made
    of: fc
      .tuple(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 4 }), seeds)
      .map(([t, m, n, seed]) => {
        const { flat, start, col } = places([m, n], seed);
        return instance({
          operands: [operand([t, m], real, seed), operand([t, n], real, seed + 1), operand([m, n], real, seed + 2), start, col],
          apply: ([a, b, x, s, c]) => sparse.sparseTake(a!.T.matmul(b!).add(x!), { start: s!, col: c! }),
          naive: ([a, b, x]) =>
            taken(
              nd([m, n], ([i, j]) => {
                let sum = x!.data[i! * n + j!]!;
                for (let k = 0; k < t; k++) sum += a!.data[k * m + i!]! * b!.data[k * n + j!]!;
                return sum;
              }),
              flat,
            ),
          depth: t + 2,
          scale: () => 4 * t + 2,
        });
      }),
  },
];
