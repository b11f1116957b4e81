// Vectors as strict upper triangles of square matrices and back: how a skew-symmetric matrix is stored.
//   entry (i, j), i < j, is number i(2b − i − 1)/2 + j − i − 1 of b(b − 1)/2: row by row.
import { defineOp, type Op } from '../op.ts';
import { dim, ShapeError, show } from '../shape.ts';
import type { Tensor } from '../tensor.ts';

const entries = (b: number): number => (b * (b - 1)) / 2;

const upperOp: Op<'v', { b: number }> = defineOp<'v', { b: number }>({
  name: 'upperTriangle',
  inputs: ['v'],
  flops: () => 0,
  shape: ({ v }, { b }) => {
    if (v.length === 0 || !Number.isInteger(b) || b < 2 || dim(v, -1) !== entries(b))
      throw new ShapeError(
        `upperTriangle: a triangle of ${b} × ${b} needs ${entries(b)} numbers in the last dimension, and two rows or more; got ${show(v)}`,
      );
    return [...v.slice(0, -1), b, b];
  },
  kernel: {
    kind: 'custom',
    body: ({ i, at, attrs: { b } }) => {
      const [row, col] = [i.at(-2)!, i.at(-1)!];
      return `const r = ${row}; const c = ${col};
  if (c <= r) { return 0.0; }
  const k = Math.floor(r * (${2 * b - 1} - r) * 0.5 + 0.25) + c - r - 1;
  return ${at('v', [...i.slice(0, -2), 'k'])};`;
    },
  },
  vjp: ({ dy }) => ({ v: () => takeTriangle(dy) }),
});
/** Numbers [..., b(b − 1)/2] above the diagonal of matrices [..., b, b], zeros elsewhere. */
export const upperTriangle = (v: Tensor, b: number): Tensor => upperOp({ v }, { b });

const takeOp: Op<'x', null> = defineOp<'x'>({
  name: 'takeTriangle',
  inputs: ['x'],
  flops: () => 0,
  shape: ({ x }) => {
    const b = dim(x, -1);
    if (x.length < 2 || dim(x, -2) !== b || b < 2)
      throw new ShapeError(`takeTriangle: ${show(x)} holds no square matrices of two rows or more`);
    return [...x.slice(0, -2), entries(b)];
  },
  kernel: {
    kind: 'custom',
    body: ({ shapes, i, at }) => {
      const b = dim(shapes.x, -1);
      return `let row = 0.0; let rest = ${i.at(-1)!} + 0.0;
  for (let n = 0; n < ${b - 2}; n++) { if (rest >= ${b - 1} - row) { rest = rest - (${b - 1} - row); row = row + 1.0; } }
  const col = row + 1.0 + rest;
  return ${at('x', [...i.slice(0, -1), 'row', 'col'])};`;
    },
  },
  vjp: ({ x, dy }) => ({ x: () => upperTriangle(dy, dim(x.shape, -1)) }),
});
/** What stands above the diagonals of matrices [..., b, b], row by row: [..., b(b − 1)/2]. */
export const takeTriangle = (x: Tensor): Tensor => takeOp({ x }, null);
