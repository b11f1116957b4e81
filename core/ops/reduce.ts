// Reductions over any axes: sum, mean, max, logsumexp, argmax.
import { type Body, loops } from '../kernel.ts';
import { defineOp, type Op } from '../op.ts';
import { axisOf, dim, type Shape, same, size } from '../shape.ts';
import type { Tensor } from '../tensor.ts';
import { div, eq, exp, mul, sub } from './map.ts';
import { broadcastTo, pad, reshape } from './move.ts';

interface Axes {
  readonly axes: readonly number[];
}

const kept = (s: Shape, axes: readonly number[]): Shape => s.map((n, i) => (axes.includes(i) ? 1 : n));

/** Reads x with the reduced coordinates replaced by loop variables; the result keeps reduced axes as 1. */
function over({ shapes, attrs, i, at }: Body<'x', Axes>, body: (v: string) => string): string {
  const c = i.map((e, k) => (attrs.axes.includes(k) ? `k${k}` : e));
  return loops(
    attrs.axes.map((k) => [`k${k}`, shapes.x[k]!] as const),
    body(at('x', c)),
  );
}

const sumOp: Op<'x', Axes> = defineOp<'x', Axes>({
  name: 'sum',
  inputs: ['x'],
  shape: ({ x }, { axes }) => kept(x, axes),
  flops: ({ x }) => size(x),
  kernel: { kind: 'custom', body: (b) => `let s = 0.0; ${over(b, (v) => `s += ${v};`)} return s;` },
  vjp: ({ x, dy }) => ({ x: () => broadcastTo(dy, x.shape) }),
});

const maxOp: Op<'x', Axes> = defineOp<'x', Axes>({
  name: 'maxOver',
  inputs: ['x'],
  shape: ({ x }, { axes }) => kept(x, axes),
  flops: ({ x }) => size(x),
  kernel: { kind: 'custom', body: (b) => `let s = -1e38; ${over(b, (v) => `s = Math.max(s, ${v});`)} return s;` },
  // Ties share the gradient equally.
  vjp: ({ x, y, dy, attrs }) => ({
    x: () => {
      const hit = eq(x, y);
      return mul(hit, div(dy, sumOp({ x: hit }, attrs)));
    },
  }),
});

/** Adds `term` to s over the reduced axes. A long axis (a vocabulary) goes in pieces, which keeps float32 sums accurate. */
function inPieces(b: Body<'x', Axes>, term: (v: string) => string): string {
  const { shapes, attrs, i, at } = b;
  const axis = attrs.axes[0]!;
  const n = shapes.x[axis]!;
  if (attrs.axes.length > 1 || n <= PIECE) return over(b, (v) => `s += ${term(v)};`);
  const value = term(at('x', i.with(axis, 'k')));
  const whole = Math.floor(n / PIECE);
  const rest = n % PIECE === 0 ? '' : `let p = 0.0; for (let k = ${whole * PIECE}; k < ${n}; k++) { p += ${value}; } s += p;`;
  return `for (let c = 0; c < ${whole}; c++) { let p = 0.0; for (let j = 0; j < ${PIECE}; j++) { const k = c * ${PIECE} + j; p += ${value}; } s += p; } ${rest}`;
}
const PIECE = 256;

const logsumexpOp: Op<'x', Axes> = defineOp<'x', Axes>({
  name: 'logsumexp',
  inputs: ['x'],
  shape: ({ x }, { axes }) => kept(x, axes),
  flops: ({ x }) => 4 * size(x),
  kernel: {
    kind: 'custom',
    body: (b) => `let m = -1e38; ${over(b, (v) => `m = Math.max(m, ${v});`)}
  let s = 0.0; ${inPieces(b, (v) => `Math.exp(${v} - m)`)} return m + Math.log(s);`,
  },
  vjp: ({ x, y, dy }) => ({ x: () => mul(dy, exp(sub(x, y))) }), // softmax
});

const argmaxOp: Op<'x', Axes> = defineOp<'x', Axes>({
  name: 'argmax',
  inputs: ['x'],
  shape: ({ x }, { axes }) => kept(x, axes),
  flops: ({ x }) => size(x),
  kernel: {
    kind: 'custom',
    body: (b) => `let m = -1e38; let best = 0.0; ${over(b, (v) => `if (${v} > m) { m = ${v}; best = k${b.attrs.axes[0]}; }`)} return best;`,
  },
  vjp: () => ({ x: null }),
});

function reducer(op: Op<'x', Axes>): (x: Tensor, axes?: readonly number[], keep?: boolean) => Tensor {
  return (x, axes = [...x.shape.keys()], keep = false) => {
    const sorted = [...new Set(axes.map((a) => axisOf(a, x.shape.length, op.def.name)))].sort((a, b) => a - b);
    if (sorted.length === 0) return x;
    const y = op({ x }, { axes: sorted });
    return keep
      ? y
      : reshape(
          y,
          x.shape.filter((_, i) => !sorted.includes(i)),
        );
  };
}

/** A kernel adds this many terms at most; longer sums go in two stages, in an order no thread count changes. */
const STAGE = 1024;

/** Sum over `axes` (all by default). With `keep`, reduced dimensions stay as 1. */
export function sum(x: Tensor, axes: readonly number[] = [...x.shape.keys()], keep = false): Tensor {
  const sorted = [...new Set(axes.map((a) => axisOf(a, x.shape.length, 'sum')))].sort((a, b) => a - b);
  const terms = sorted.reduce((n, a) => n * x.shape[a]!, 1);
  if (terms <= STAGE) return plainSum(x, sorted, keep);
  const last = sorted.at(-1)!;
  if (sorted.length > 1) {
    // the innermost axis first, then the rest
    const inner = sum(x, [last], true);
    return finish(sum(inner, sorted.slice(0, -1), true), x.shape, sorted, keep);
  }
  const n = x.shape[last]!;
  const root = Math.ceil(Math.sqrt(n));
  const part = divisorNear(n, root);
  // No divisor near √n (a prime, say): zeros make one.
  if (part < root / 4) return sum(pad(x, last, 0, Math.ceil(n / root) * root - n), sorted, keep);
  const split = reshape(x, [...x.shape.slice(0, last), n / part, part, ...x.shape.slice(last + 1)]);
  return finish(sum(plainSum(split, [last + 1], true), [last], true), x.shape, sorted, keep);
}
const plainSum = reducer(sumOp);
const finish = (y: Tensor, from: Shape, axes: readonly number[], keep: boolean): Tensor =>
  reshape(y, keep ? kept(from, axes) : from.filter((_, i) => !axes.includes(i)));
const divisorNear = (n: number, target: number): number => {
  for (let d = Math.floor(target); d > 1; d--) if (n % d === 0) return d;
  return 1;
};

/** Mean over `axes` (all by default). */
export const mean = (x: Tensor, axes: readonly number[] = [...x.shape.keys()], keep = false): Tensor =>
  mul(sum(x, axes, keep), 1 / [...new Set(axes.map((a) => axisOf(a, x.shape.length, 'mean')))].reduce((n, a) => n * x.shape[a]!, 1));

/** Largest value over `axes`; tied places share the gradient. */
export const maxOver = reducer(maxOp);
/** log Σ exp, shifted by the maximum so that it cannot overflow. */
export const logsumexp = reducer(logsumexpOp);
/** Index of the largest value along one axis (the first of equals). Not differentiable. */
export const argmax = (x: Tensor, axis = -1, keep = false): Tensor => reducer(argmaxOp)(x, [axis], keep);

/** The adjoint of broadcasting: sums `x` down to `shape`. */
export function sumTo(x: Tensor, shape: Shape): Tensor {
  if (same(x.shape, shape)) return x;
  const lead = x.shape.length - shape.length;
  const axes = x.shape.flatMap((n, i) => (i < lead || (dim(shape, i - lead) === 1 && n !== 1) ? [i] : []));
  return reshape(sum(x, axes, true), shape);
}
