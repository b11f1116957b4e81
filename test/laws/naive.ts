// Arrays with an index rule and nothing else: what the naive definitions of ops are written with.
import { broadcast, type Shape, size } from '../../core/shape.ts';

export interface Nd {
  readonly shape: Shape;
  readonly data: Float64Array;
}

/** Fills an array by asking for every coordinate. */
export function nd(shape: Shape, f: (c: readonly number[]) => number): Nd {
  const data = new Float64Array(size(shape));
  const c = shape.map(() => 0);
  for (let k = 0; k < data.length; k++) {
    data[k] = f(c);
    for (let d = shape.length - 1; d >= 0; d--) {
      c[d] = c[d]! + 1;
      if (c[d]! < shape[d]!) break;
      c[d] = 0;
    }
  }
  return { shape, data };
}

/** The element at `c`, aligned at the right; dimensions of length 1 stretch. */
export function get(x: Nd, c: readonly number[]): number {
  const shift = c.length - x.shape.length;
  const flat = x.shape.reduce((k, n, d) => k * n + (n === 1 ? 0 : c[d + shift]!), 0);
  return x.data[flat]!;
}

/** Calls `f` with every coordinate of `shape`. */
export const each = (shape: Shape, f: (c: readonly number[]) => void): void => {
  nd(shape, (c) => {
    f([...c]);
    return 0;
  });
};

/** f of broadcast operands, element by element. */
export const elementwise = (f: (...v: number[]) => number, ...xs: Nd[]): Nd =>
  nd(
    xs.reduce<Shape>((s, x) => broadcast(s, x.shape), []),
    (c) => f(...xs.map((x) => get(x, c))),
  );

/** Reduces the values along `axes` (kept as 1) with `f`. */
export function reduced(x: Nd, axes: readonly number[], keep: boolean, f: (values: readonly number[]) => number): Nd {
  const inner = x.shape.map((n, d) => (axes.includes(d) ? n : 1));
  const kept = x.shape.map((n, d) => (axes.includes(d) ? 1 : n));
  const y = nd(kept, (c) => {
    const values: number[] = [];
    each(inner, (k) => {
      values.push(
        get(
          x,
          c.map((v, d) => v + k[d]!),
        ),
      );
    });
    return f(values);
  });
  return keep ? y : { shape: x.shape.filter((_, d) => !axes.includes(d)), data: y.data };
}

/** The same array without its last dimension, row by row. */
export const rowsOf = (x: Nd): Float64Array[] => {
  const n = x.shape.at(-1) ?? 1;
  return Array.from({ length: x.data.length / n }, (_, r) => x.data.slice(r * n, (r + 1) * n));
};
export const fromRows = (shape: Shape, rows: readonly ArrayLike<number>[]): Nd => ({
  shape,
  data: Float64Array.from(rows.flatMap((r) => Array.from(r))),
});

export const total = (v: ArrayLike<number>): number => Array.from(v).reduce((a, b) => a + b, 0);
export const largest = (v: ArrayLike<number>): number => Array.from(v).reduce((a, b) => Math.max(a, Math.abs(b)), 0);
export const lse = (v: ArrayLike<number>): number => {
  const m = Math.max(...Array.from(v));
  return m + Math.log(total(Array.from(v, (x) => Math.exp(x - m))));
};

/** erf(x) = 2/√π ∫₀ˣ e^(−t²) dt, by Simpson's rule. */
export function erf(x: number): number {
  const n = 2000;
  const h = x / n;
  let s = 1 + Math.exp(-x * x);
  for (let k = 1; k < n; k++) s += (k % 2 === 0 ? 2 : 4) * Math.exp(-((k * h) ** 2));
  return (2 / Math.sqrt(Math.PI)) * (h / 3) * s;
}
