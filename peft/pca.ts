// Principal directions of rows that arrive in batches, without keeping the rows (Ross, Lim, Lin & Yang 2008, §3.1).
import { svd } from './linalg.ts';

/** What is known of the rows so far: their number and mean, singular values and directions of the deviations, and their sum of squares. */
export interface Principal {
  readonly n: number;
  readonly mean: Float64Array; // [width]
  readonly s: Float64Array; // [k]
  readonly vt: Float64Array; // [k, width]
  readonly total: number;
}

/**
 * The same after more rows [m, width]: at most `most` directions of diag(s)·Vᵀ, the new rows' deviations from their own mean, and the
 * step √(n m/(n + m))·(mean − new mean), one under the other. Exact while no direction has been dropped.
 */
export function afterRows(known: Principal | null, rows: Float64Array, width: number, most: number): Principal {
  const [m, before] = [rows.length / width, known?.n ?? 0];
  const mean = new Float64Array(width);
  for (const [k, v] of rows.entries()) mean[k % width]! += v / m;
  const directions = known === null ? 0 : known.s.length;
  const all = new Float64Array((directions + m + (known === null ? 0 : 1)) * width);
  if (known !== null) for (const [k, v] of known.vt.entries()) all[k] = v * known.s[Math.floor(k / width)]!;
  for (const [k, v] of rows.entries()) all[directions * width + k] = v - mean[k % width]!;
  if (known !== null)
    for (const [k, v] of mean.entries()) all[(directions + m) * width + k] = Math.sqrt((before * m) / (before + m)) * (known.mean[k]! - v);
  const { s, vt } = svd(all, all.length / width, width, Math.min(most, width, all.length / width));
  return {
    n: before + m,
    mean: known === null ? mean : mean.map((v, k) => (before * known.mean[k]! + m * v) / (before + m)),
    s,
    vt,
    total: all.subarray(directions * width).reduce((sum, v) => sum + v * v, known?.total ?? 0),
  };
}

/** Whether every direction's |cosine| with the one before exceeds tau. */
export const steady = (a: Principal, b: Principal, tau: number): boolean => {
  const width = a.mean.length;
  return (
    a.s.length === b.s.length &&
    [...a.s.keys()].every((j) => {
      const [v, w] = [a, b].map((p) => p.vt.subarray(j * width, (j + 1) * width)) as [Float64Array, Float64Array];
      return Math.abs(v.reduce((dot, x, k) => dot + x * w[k]!, 0)) > tau;
    })
  );
};
