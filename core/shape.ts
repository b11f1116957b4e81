// Shapes, broadcasting, and the one layout rule: every tensor is a table of `rows` × `cols`.
import { here } from './scope.ts';

export type Shape = readonly number[];

/** A shape that does not fit: names the op, the operands and the layer that asked. */
export class ShapeError extends Error {
  override readonly name = 'ShapeError';
  /** What does not fit, without the layer. */
  readonly reason: string;

  constructor(reason: string, path = here().path) {
    super(path === '' ? reason : `${reason} (in ${path})`);
    this.reason = reason;
  }
}

export const show = (s: Shape): string => `[${s.join(', ')}]`;
export const size = (s: Shape): number => s.reduce((a, b) => a * b, 1);
export const same = (a: Shape, b: Shape): boolean => a.length === b.length && a.every((n, i) => n === b[i]);
/** Dimension `i`, counted from the end when negative; 1 where the shape has none. */
export const dim = (s: Shape, i: number): number => s[i < 0 ? s.length + i : i] ?? 1;

/** cols = last dimension, rows = the product of all others. A scalar is 1 × 1, a vector 1 × n. */
export const table = (s: Shape): { rows: number; cols: number } => {
  const cols = dim(s, -1);
  return { rows: size(s.slice(0, -1)), cols };
};

/** gpu.js computes indices in float32: both sides of a table stay exact below 2²⁴ (DESIGN §2.8). */
const LIMIT = 2 ** 24;

/** Throws unless every dimension is a positive integer and the table's sides stay exactly representable. */
export function checkShape(s: Shape, what: string): Shape {
  if (!s.every((n) => Number.isInteger(n) && n > 0))
    throw new ShapeError(`${what}: every dimension of ${show(s)} must be a positive integer`);
  const { rows, cols } = table(s);
  if (rows >= LIMIT || cols >= LIMIT)
    throw new ShapeError(
      `${what}: ${show(s)} is a table of ${rows} × ${cols}; both sides must stay below 2^24. Split it, or reshape so that neither side is that long`,
    );
  return s;
}

/** NumPy's rule: align at the right; a 1 stretches. Throws with both shapes when they do not agree. */
export function broadcast(a: Shape, b: Shape, what = 'broadcast'): Shape {
  const n = Math.max(a.length, b.length);
  return Array.from({ length: n }, (_, i) => {
    const p = a[i - n + a.length] ?? 1;
    const q = b[i - n + b.length] ?? 1;
    if (p !== q && p !== 1 && q !== 1)
      throw new ShapeError(
        `${what}: ${show(a)} and ${show(b)} do not broadcast: ${p} and ${q} differ at dimension ${i - n} and neither is 1`,
      );
    return Math.max(p, q);
  });
}

/** A dimension index made non-negative, or an error that says what the range is. */
export function axisOf(axis: number, rank: number, what: string): number {
  const k = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(k) || k < 0 || k >= rank)
    throw new ShapeError(`${what}: axis ${axis} is outside a tensor of ${rank} dimensions (use ${-rank}…${rank - 1})`);
  return k;
}
