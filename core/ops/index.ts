// Reading and writing by index: gather, scatter-add, one-hot, take-along, iota. Indices are whole numbers in float tensors.
import { loops, X } from '../kernel.ts';
import { defineOp, type Op } from '../op.ts';
import { dim, ShapeError, same, show, size } from '../shape.ts';
import type { Tensor } from '../tensor.ts';

const gatherOp: Op<'table' | 'ids', null> = defineOp<'table' | 'ids'>({
  name: 'gather',
  inputs: ['table', 'ids'],
  inline: ['table'],
  flops: () => 0,
  shape: ({ table, ids }) => {
    if (table.length !== 2) throw new ShapeError(`gather: the table must be [rows, width], got ${show(table)}`);
    return [...ids, table[1]!];
  },
  kernel: {
    kind: 'custom',
    body: ({ i, at, read }) => {
      const { before, value } = read('table', ['id', X], 't_');
      return `const id = ${at('ids', i.slice(0, -1))};\n  ${before}\n  return ${value};`;
    },
  },
  vjp: ({ table, ids, dy }) => ({ table: () => scatterAdd(ids, dy, dim(table.shape, 0)), ids: null }),
  range: ({ table }) => ({ ids: [0, dim(table, 0)] }),
});
/** Rows of `table` [V, D] picked by `ids` [...]: [..., D]. */
export const gather = (table: Tensor, ids: Tensor): Tensor => gatherOp({ table, ids }, null);

// No atomics in gpu.js: every row of the result looks through all ids for its own (DESIGN §2.10).
const scatterOp: Op<'ids' | 'values', { rows: number }> = defineOp<'ids' | 'values', { rows: number }>({
  name: 'scatterAdd',
  inputs: ['ids', 'values'],
  flops: ({ values }) => size(values),
  shape: ({ ids, values }, { rows }) => {
    if (!same(ids, values.slice(0, -1)))
      throw new ShapeError(`scatterAdd: ids ${show(ids)} must be the leading dimensions of values ${show(values)}`);
    return [rows, dim(values, -1)];
  },
  kernel: {
    kind: 'custom',
    body: ({ shapes, at, i }) => {
      const k = shapes.ids.map((_, d) => `k${d}`);
      return `let s = 0.0; ${loops(
        shapes.ids.map((n, d) => [`k${d}`, n] as const),
        `if (${at('ids', k)} == ${i[0]}) { s += ${at('values', [...k, X])}; }`,
      )} return s;`;
    },
  },
  vjp: ({ ids, dy }) => ({ ids: null, values: () => gather(dy, ids) }),
  range: (_, { rows }) => ({ ids: [0, rows] }),
});
/** Rows of `values` [..., D] added into a table of `rows` rows at `ids` [...]; rows nobody names are 0. */
export const scatterAdd = (ids: Tensor, values: Tensor, rows: number): Tensor => scatterOp({ ids, values }, { rows });

const oneHotOp: Op<'ids', { classes: number }> = defineOp<'ids', { classes: number }>({
  name: 'oneHot',
  inputs: ['ids'],
  shape: ({ ids }, { classes }) => [...ids, classes],
  kernel: { kind: 'custom', body: ({ i, at }) => `return ${at('ids', i.slice(0, -1))} == ${X} ? 1.0 : 0.0;` },
  vjp: () => ({ ids: null }),
});
/** 1 in column ids[...], 0 elsewhere; an id outside [0, classes) gives a row of zeros. */
export const oneHot = (ids: Tensor, classes: number): Tensor => oneHotOp({ ids }, { classes });

const takeOp: Op<'x' | 'index', null> = defineOp<'x' | 'index'>({
  name: 'takeAlong',
  inputs: ['x', 'index'],
  flops: () => 0,
  shape: ({ x, index }) => {
    if (!same(x.slice(0, -1), index.slice(0, -1)))
      throw new ShapeError(`takeAlong: ${show(index)} and ${show(x)} differ before the last dimension`);
    return index;
  },
  kernel: { kind: 'custom', body: ({ i, at }) => `return ${at('x', [...i.slice(0, -1), at('index', i)])};` },
  vjp: ({ x, index, dy }) => ({ x: () => putAlong(index, dy, dim(x.shape, -1)), index: null }),
  range: ({ x }) => ({ index: [0, dim(x, -1)] }),
});
/** x[..., index[..., k]] along the last dimension. */
export const takeAlong = (x: Tensor, index: Tensor): Tensor => takeOp({ x, index }, null);

const putOp: Op<'index' | 'values', { width: number }> = defineOp<'index' | 'values', { width: number }>({
  name: 'putAlong',
  inputs: ['index', 'values'],
  flops: ({ values }, out) => size(out) * dim(values, -1),
  shape: ({ index, values }, { width }) => {
    if (!same(index, values)) throw new ShapeError(`putAlong: index ${show(index)} and values ${show(values)} must agree`);
    return [...values.slice(0, -1), width];
  },
  kernel: {
    kind: 'custom',
    body: ({ shapes, i, at }) => {
      const c = [...i.slice(0, -1), 'k'];
      return `let s = 0.0; for (let k = 0; k < ${dim(shapes.index, -1)}; k++) { if (${at('index', c)} == ${X}) { s += ${at('values', c)}; } } return s;`;
    },
  },
  vjp: ({ index, dy }) => ({ index: null, values: () => takeAlong(dy, index) }),
  range: (_, { width }) => ({ index: [0, width] }),
});
/** The adjoint of takeAlong: values added at index[..., k] of a last dimension of `width`, zeros elsewhere. */
export const putAlong = (index: Tensor, values: Tensor, width: number): Tensor => putOp({ index, values }, { width });

const iotaOp: Op<never, { n: number }> = defineOp<never, { n: number }>({
  name: 'iota',
  inputs: [],
  shape: (_, { n }) => [n],
  flops: () => 0,
  kernel: { kind: 'custom', body: () => `return ${X} + 0.0;` },
  vjp: () => ({}),
});
/** 0, 1, …, n − 1. */
export const iota = (n: number): Tensor => iotaOp({}, { n });
