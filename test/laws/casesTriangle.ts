// Cases for core/ops/triangle.ts, defined by a list of the places above a diagonal.
import fc from 'fast-check';
import * as triangle from '../../core/ops/triangle.ts';
import { between, type Case, instance, operand, seeds } from './arbitraries.ts';
import { nd } from './naive.ts';

const real = between(-2, 2);
/** (i, j) with i < j, row by row. */
const above = (b: number): (readonly [number, number])[] =>
  Array.from({ length: b }, (_, i) => Array.from({ length: b - i - 1 }, (_, k) => [i, i + 1 + k] as const)).flat();
const sizes = fc.record({ lead: fc.constantFrom<readonly number[]>([], [1], [3], [2, 2]), b: fc.integer({ min: 2, max: 6 }), seed: seeds });

export const triangleCases: readonly Case[] = [
  {
    name: 'upperTriangle',
    of: sizes.map(({ lead, b, seed }) =>
      instance({
        operands: [operand([...lead, above(b).length], real, seed)],
        apply: ([v]) => triangle.upperTriangle(v!, b),
        naive: ([v]) => {
          const n = above(b).length;
          const y = nd([...lead, b, b], () => 0);
          for (let m = 0; m < v!.data.length / n; m++)
            for (const [k, [i, j]] of above(b).entries()) y.data[m * b * b + i * b + j] = v!.data[m * n + k]!;
          return y;
        },
        depth: 0,
        attrs: { b },
      }),
    ),
  },
  {
    name: 'takeTriangle',
    of: sizes.map(({ lead, b, seed }) =>
      instance({
        operands: [operand([...lead, b, b], real, seed)],
        apply: ([x]) => triangle.takeTriangle(x!),
        naive: ([x]) => {
          const n = above(b).length;
          return nd([...lead, n], (c) => {
            const [i, j] = above(b)[c.at(-1)!]!;
            const m = c.slice(0, -1).reduce((at, k, d) => at * lead[d]! + k, 0);
            return x!.data[m * b * b + i * b + j]!;
          });
        },
        depth: 0,
      }),
    ),
  },
];
