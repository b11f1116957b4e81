// A weight with a few values added to it: the values of a sparse matrix in rows (CSR), its gradient at those places only.
//   start [rows + 1], col [k]: row r holds values start[r] … start[r + 1] − 1, at columns col[·], ascending.
// Compressed rows, because a flat index would not be exact beyond 2²⁴ (shape.ts).
import { X, Y } from '../kernel.ts';
import { defineOp, type Op } from '../op.ts';
import { dim, type Shape, ShapeError, same, show, size, table } from '../shape.ts';
import type { Tensor } from '../tensor.ts';
import { add, full } from './map.ts';

/** Places in a table: where `k` values stand. */
export interface Places {
  readonly start: Tensor; // [rows + 1]
  readonly col: Tensor; // [k]
}

/** The first place in [low, high) for which `before` fails, by halving; `n` bounds the length. */
const halving = (n: number, before: (middle: string) => string): string =>
  `for (let n = 0; n < ${Math.ceil(Math.log2(n + 1)) + 1}; n++) {
    if (low < high) {
      const middle = low + Math.floor((high - low) * 0.5);
      if (${before('middle')}) { low = middle + 1.0; } else { high = middle; }
    }
  }`;

/** w + S.  ∂/∂w = dy,  ∂/∂values = dy at the places. */
const sparseAddOp: Op<'w' | 'start' | 'col' | 'values', null> = defineOp<'w' | 'start' | 'col' | 'values'>({
  name: 'sparseAdd',
  inputs: ['w', 'start', 'col', 'values'],
  flops: ({ values }) => size(values),
  shape: ({ w, start, col, values }) => {
    fits('sparseAdd', start, col, table(w).rows);
    if (values.length !== 1 || values[0] !== col[0])
      throw new ShapeError(`sparseAdd: ${show(col)} places need as many values, got ${show(values)}`);
    return w;
  },
  kernel: {
    kind: 'custom',
    body: ({ shapes, i, at }) => `let low = ${at('start', [Y])}; const end = ${at('start', [`${Y} + 1`])}; let high = end;
  ${halving(Math.min(dim(shapes.w, -1), dim(shapes.col, 0)), (m) => `${at('col', [m])} < ${X}`)}
  const found = Math.min(low, ${dim(shapes.col, 0) - 1}.0);
  const w = ${at('w', i)};
  const v = ${at('values', ['found'])};
  if (low < end && ${at('col', ['found'])} == ${X} && v != 0.0) { return w + v; }
  return w;`,
  },
  range: ({ w }) => ({ col: [0, table(w).cols] }),
  vjp: ({ start, col, dy }) => ({ w: () => dy, start: null, col: null, values: () => sparseTake(dy, { start, col }) }),
});
/** w with `values` [k] added at the places. w of any shape, as a table; a value of 0 leaves every bit of w. */
export const sparseAdd = (w: Tensor, { start, col }: Places, values: Tensor): Tensor => sparseAddOp({ w, start, col, values }, null);

const fits = (op: string, start: Shape, col: Shape, rows: number): void => {
  if (start.length !== 1 || start[0] !== rows + 1 || col.length !== 1)
    throw new ShapeError(`${op}: places need start [${rows + 1}] and col [k], got ${show(start)} and ${show(col)}`);
};

/** The row of place `x`: the last r with start[r] ≤ x. */
const rowOf = (rows: number, start: (r: string) => string): string => `let low = 1.0; let high = ${rows}.0;
  ${halving(rows, (m) => `${start(m)} <= ${X}`)}
  const row = low - 1.0;`;

const takeOp: Op<'x' | 'start' | 'col', null> = defineOp<'x' | 'start' | 'col'>({
  name: 'sparseTake',
  inputs: ['x', 'start', 'col'],
  flops: () => 0,
  shape: ({ x, start, col }) => {
    fits('sparseTake', start, col, table(x).rows);
    return col;
  },
  kernel: {
    kind: 'custom',
    body: ({ shapes, at }) => `${rowOf(table(shapes.x).rows, (r) => at('start', [r]))} return a0[row][${at('col', [X])}];`,
  },
  range: ({ x }) => ({ col: [0, table(x).cols] }),
  vjp: ({ x, start, col, dy }) => ({ x: () => sparseAdd(full(x.shape, 0), { start, col }, dy), start: null, col: null }),
});

/** Σₜ a[t, row]·b[t, col] at each place: the places of aᵀb, without the product. */
const sampledOp: Op<'a' | 'b' | 'start' | 'col', null> = defineOp<'a' | 'b' | 'start' | 'col'>({
  name: 'sampledProduct',
  inputs: ['a', 'b', 'start', 'col'],
  flops: ({ a, col }) => 2 * a[0]! * size(col),
  shape: ({ a, b, start, col }) => {
    if (a.length !== 2 || b.length !== 2 || a[0] !== b[0]) throw new ShapeError(`sampledProduct: ${show(a)}ᵀ·${show(b)} is not a product`);
    fits('sampledProduct', start, col, a[1]!);
    return col;
  },
  kernel: {
    kind: 'custom',
    body: ({ shapes, at }) => `${rowOf(shapes.a[1]!, (r) => at('start', [r]))}
  const c = ${at('col', [X])}; let s = 0.0;
  for (let t = 0; t < ${shapes.a[0]}; t++) { s += ${at('a', ['t', 'row'])} * ${at('b', ['t', 'c'])}; }
  return s;`,
  },
  vjp: ({ a, b, start, col, dy }) => {
    const dense = (): Tensor => sparseAdd(full([a.shape[1]!, b.shape[1]!], 0), { start, col }, dy); // [rows, cols]
    return { a: () => b.matmul(dense().T), b: () => a.matmul(dense()), start: null, col: null };
  },
});

/**
 * x at the places: [k]. Where x is a product aᵀb (the gradient of a weight), or a sum of such, only the wanted places of it are
 * computed, so that the gradient of a sparse change never exists as a dense matrix.
 */
export function sparseTake(x: Tensor, places: Places): Tensor {
  const s = x.source;
  if (s.kind === 'apply') {
    const [p, q] = s.ins;
    if (s.op.name === 'add' && same(p!.shape, q!.shape)) return add(sparseTake(p!, places), sparseTake(q!, places));
    if (s.op.name === 'matmul' && p!.shape.length === 2 && q!.shape.length === 2) {
      const { ta, tb } = s.attrs as { ta: boolean; tb: boolean };
      return sampledOp({ a: ta ? p! : p!.T, b: tb ? q!.T : q!, ...places }, null);
    }
  }
  return takeOp({ x, ...places }, null);
}
