// Movement: the same numbers in other places. Each op is its own index rule; the gradient is the reverse movement.
import { float, idiv } from '../kernel.ts';
import { defineOp, type Op, reapply } from '../op.ts';
import { here } from '../scope.ts';
import { axisOf, broadcast, checkShape, dim, type Shape, ShapeError, same, show, size, table } from '../shape.ts';
import { Tensor } from '../tensor.ts';

import { sumTo } from './reduce.ts';

/** A copy into other columns, where one column count divides the other (reshape goes through their gcd otherwise). */
const recolumn: Op<'x', { shape: Shape }> = defineOp<'x', { shape: Shape }>({
  name: 'reshape',
  inputs: ['x'],
  shape: (_, { shape }) => shape,
  flops: () => 0,
  kernel: {
    kind: 'custom',
    body: ({ out, shapes }) => {
      const [from, to] = [table(shapes.x).cols, table(out).cols];
      if (from % to === 0) {
        // split each row into from/to rows
        const n = from / to;
        return `const q = ${idiv('this.thread.y', n)}; return a0[q][(this.thread.y - q * ${n}) * ${to} + this.thread.x];`;
      }
      const n = to / from; // join n rows
      return `const q = ${idiv('this.thread.x', from)}; return a0[this.thread.y * ${n} + q][this.thread.x - q * ${from}];`;
    },
  },
  vjp: ({ x, dy }) => ({ x: () => reshape(dy, x.shape) }),
});
const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b));

/** The same numbers in row-major order under another shape. One dimension may be −1. Free when the columns stay. */
export function reshape(x: Tensor, to: Shape): Tensor {
  const open = to.indexOf(-1);
  const rest = to.reduce((n, d) => (d === -1 ? n : n * d), 1);
  const shape = open < 0 ? to : to.with(open, size(x.shape) / rest);
  if (size(shape) !== size(x.shape))
    throw new ShapeError(`reshape: ${show(x.shape)} has ${size(x.shape)} elements, ${show(to)} would need ${size(shape)}`);
  checkShape(shape, 'reshape');
  if (same(shape, x.shape)) return x;
  const [from, cols] = [dim(x.shape, -1), dim(shape, -1)];
  if (from === cols) return new Tensor(shape, { kind: 'view', of: x.source.kind === 'view' ? x.source.of : x });
  const g = gcd(from, cols);
  if (g === from || g === cols) return recolumn({ x }, { shape });
  return recolumn({ x: recolumn({ x }, { shape: [size(x.shape) / g, g] }) }, { shape });
}

const permuteOp: Op<'x', { order: readonly number[] }> = defineOp<'x', { order: readonly number[] }>({
  name: 'permute',
  inputs: ['x'],
  shape: ({ x }, { order }) => order.map((o) => x[o]!),
  flops: () => 0,
  kernel: {
    kind: 'custom',
    body: ({ i, at, attrs: { order } }) =>
      `return ${at(
        'x',
        order.map((_, k) => i[order.indexOf(k)]!),
      )};`,
  },
  vjp: ({ dy, attrs: { order } }) => ({
    x: () =>
      permute(
        dy,
        order.map((_, k) => order.indexOf(k)),
      ),
  }),
});
/** Dimensions in another order: result dimension k is x's dimension order[k]. */
export function permute(x: Tensor, order: readonly number[]): Tensor {
  if (order.length !== x.shape.length || !order.every((_, k) => order.includes(k)))
    throw new ShapeError(`permute: [${order.join(', ')}] is not an order of the ${x.shape.length} dimensions of ${show(x.shape)}`);
  return order.every((o, k) => o === k) ? x : permuteOp({ x }, { order });
}

interface Range {
  readonly axis: number;
  readonly start: number;
  readonly end: number;
}
const sliceOp: Op<'x', Range> = defineOp<'x', Range>({
  name: 'slice',
  inputs: ['x'],
  shape: ({ x }, { axis, start, end }) => x.with(axis, end - start),
  flops: () => 0,
  kernel: {
    kind: 'custom',
    body: ({ i, at, attrs: { axis, start } }) => `return ${at('x', start === 0 ? i : i.with(axis, `${i[axis]} + ${start}`))};`,
  },
  vjp: ({ x, dy, attrs: { axis, start, end } }) => ({ x: () => pad(dy, axis, start, x.shape[axis]! - end) }),
});
/** Elements start ≤ i < end along one axis. */
export function slice(x: Tensor, axis: number, start: number, end = dim(x.shape, axis)): Tensor {
  const a = axisOf(axis, x.shape.length, 'slice');
  const n = x.shape[a]!;
  const [from, to] = [start < 0 ? start + n : start, end < 0 ? end + n : end];
  if (!(from >= 0 && to <= n && from < to && Number.isInteger(from) && Number.isInteger(to)))
    throw new ShapeError(`slice: ${start}…${end} is not a non-empty part of axis ${axis} of ${show(x.shape)}`);
  if (from === 0 && to === n) return x;
  const s = x.source;
  if (a === 0 && s.kind === 'apply' && s.op.rows !== undefined) return reapply(s.op, s.ins, s.op.rows(s.attrs, from, to), here());
  return sliceOp({ x }, { axis: a, start: from, end: to });
}

interface Padding {
  readonly axis: number;
  readonly before: number;
  readonly after: number;
  readonly value: number;
}
const padOp: Op<'x', Padding> = defineOp<'x', Padding>({
  name: 'pad',
  inputs: ['x'],
  shape: ({ x }, { axis, before, after }) => x.with(axis, x[axis]! + before + after),
  flops: () => 0,
  kernel: {
    kind: 'custom',
    body: ({ shapes, i, at, attrs: { axis, before, value } }) => {
      const n = shapes.x[axis]!;
      const c = i[axis]!;
      return `if (${c} < ${before} || ${c} >= ${before + n}) { return ${float(value)}; }
  return ${at('x', i.with(axis, `Math.min(Math.max(${c} - ${before}, 0), ${n - 1})`))};`;
    },
  },
  vjp: ({ x, dy, attrs: { axis, before } }) => ({ x: () => slice(dy, axis, before, before + x.shape[axis]!) }),
});
/** `before` and `after` elements of `value` (0) added along one axis. */
export function pad(x: Tensor, axis: number, before: number, after: number, value = 0): Tensor {
  const a = axisOf(axis, x.shape.length, 'pad');
  if (![before, after].every((n) => Number.isInteger(n) && n >= 0))
    throw new ShapeError(`pad: ${before} and ${after} must be whole numbers, 0 or more; use slice to take elements away`);
  return before === 0 && after === 0 ? x : padOp({ x }, { axis: a, before, after, value });
}

const concatOp: Op<'a' | 'b', { axis: number }> = defineOp<'a' | 'b', { axis: number }>({
  name: 'concat',
  inputs: ['a', 'b'],
  flops: () => 0,
  shape: ({ a, b }, { axis }) => {
    if (a.length !== b.length || !same(a.with(axis, 0), b.with(axis, 0)))
      throw new ShapeError(`concat: ${show(a)} and ${show(b)} differ outside axis ${axis}`);
    return a.with(axis, a[axis]! + b[axis]!);
  },
  kernel: {
    kind: 'custom',
    body: ({ shapes, i, at, attrs: { axis } }) => {
      const n = shapes.a[axis]!;
      return `if (${i[axis]} < ${n}) { return ${at('a', i.with(axis, `Math.min(${i[axis]}, ${n - 1})`))}; }
  return ${at('b', i.with(axis, `Math.max(${i[axis]} - ${n}, 0)`))};`;
    },
  },
  vjp: ({ a, dy, attrs: { axis } }) => ({
    a: () => slice(dy, axis, 0, a.shape[axis]!),
    b: () => slice(dy, axis, a.shape[axis]!),
  }),
});
/** Tensors joined along an existing axis. */
export function concat(parts: readonly Tensor[], axis: number): Tensor {
  const [first, ...rest] = parts;
  if (first === undefined) throw new ShapeError('concat: no tensors given; it needs one or more');
  const a = axisOf(axis, first.shape.length, 'concat');
  return rest.reduce((x, b) => concatOp({ a: x, b }, { axis: a }), first);
}
/** Tensors of equal shape joined along a new axis; −1 puts it last. */
export function stack(parts: readonly Tensor[], axis = 0): Tensor {
  const a = axisOf(axis, (parts[0]?.shape.length ?? 0) + 1, 'stack');
  return concat(
    parts.map((t) => reshape(t, t.shape.toSpliced(a, 0, 1))),
    a,
  );
}
/** `n` equal parts along one axis. */
export function split(x: Tensor, n: number, axis: number): Tensor[] {
  const each = dim(x.shape, axis) / n;
  if (!Number.isInteger(each)) throw new ShapeError(`split: axis ${axis} of ${show(x.shape)} does not divide into ${n} parts`);
  return Array.from({ length: n }, (_, k) => slice(x, axis, k * each, (k + 1) * each));
}

const flipOp: Op<'x', { axis: number }> = defineOp<'x', { axis: number }>({
  name: 'flip',
  inputs: ['x'],
  shape: ({ x }) => x,
  flops: () => 0,
  kernel: {
    kind: 'custom',
    body: ({ shapes, i, at, attrs: { axis } }) => `return ${at('x', i.with(axis, `${shapes.x[axis]! - 1} - ${i[axis]}`))};`,
  },
  vjp: ({ dy, attrs: { axis } }) => ({ x: () => flip(dy, axis) }),
});
/** The order along one axis reversed. */
export const flip = (x: Tensor, axis: number): Tensor => flipOp({ x }, { axis: axisOf(axis, x.shape.length, 'flip') });

/** Elements moved `shift` places up along one axis, those pushed out coming back in at the start. */
export function roll(x: Tensor, shift: number, axis: number): Tensor {
  const n = dim(x.shape, axis);
  const s = ((shift % n) + n) % n;
  return s === 0 ? x : concat([slice(x, axis, n - s), slice(x, axis, 0, n - s)], axis);
}

const broadcastOp: Op<'x', { shape: Shape }> = defineOp<'x', { shape: Shape }>({
  name: 'broadcast',
  inputs: ['x'],
  flops: () => 0,
  kernel: { kind: 'map', expr: 'x' },
  shape: ({ x }, { shape }) => {
    if (!same(broadcast(x, shape, 'broadcastTo'), shape))
      throw new ShapeError(`broadcastTo: ${show(x)} does not stretch to ${show(shape)}`);
    return shape;
  },
  vjp: ({ x, dy }) => ({ x: () => sumTo(dy, x.shape) }),
});
/** Size-1 dimensions (and missing leading ones) stretched to `shape`. Map ops do this by themselves. */
export const broadcastTo = (x: Tensor, shape: Shape): Tensor => (same(x.shape, shape) ? x : broadcastOp({ x }, { shape }));

/** The whole tensor `times` over along one axis: [a, b] → [a, b, a, b]. */
export function repeat(x: Tensor, times: number, axis: number): Tensor {
  const a = axisOf(axis, x.shape.length, 'repeat');
  const copies = broadcastTo(reshape(x, x.shape.toSpliced(a, 0, 1)), x.shape.toSpliced(a, 0, times));
  return reshape(copies, x.shape.with(a, times * x.shape[a]!));
}
