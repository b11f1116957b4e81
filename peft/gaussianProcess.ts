// Gaussian-process regression with a Matérn 5/2 kernel: what is known of a function from noisy values at some points.
//   k(x, z) = a·(1 + √5 d + ⁵⁄₃ d²)·exp(−√5 d),   d² = Σ_i ρ_i (x_i − z_i)²;   y = f(x) + N(0, σ²),   f ~ GP(m, k)
//   f(Z) | y ~ N(m + K_ZX K⁻¹ (y − m), K_ZZ − K_ZX K⁻¹ K_XZ),   K = K_XX + σ² I
//   log p(y) = −½ (y − m)ᵀ K⁻¹ (y − m) − ½ log|K| − n/2 log 2π
import { type Cholesky, cholesky, product, transposed } from './linalg.ts';

export type Points = readonly (readonly number[])[];

export interface Kernel {
  readonly scale: number; // a
  readonly inverse: readonly number[]; // ρ, one for each coordinate: inverse squared length scales
  readonly mean: number; // m
  readonly noise: number; // σ²
}
/** Added to diagonals that have no noise of their own, in units of the scale. */
const JITTER = 1e-6;

/** K_xz [n, m], without noise. */
export function gram({ scale, inverse }: Kernel, xs: Points, zs: Points): Float64Array {
  const out = new Float64Array(xs.length * zs.length);
  for (let i = 0; i < xs.length; i++)
    for (let j = 0; j < zs.length; j++) {
      const [x, z] = [xs[i]!, zs[j]!];
      let square = 0;
      for (let k = 0; k < x.length; k++) square += inverse[k]! * (x[k]! - z[k]!) ** 2;
      const d = Math.sqrt(5 * square); // √5 d
      out[i * zs.length + j] = scale * (1 + d + (d * d) / 3) * Math.exp(-d);
    }
  return out;
}

export interface Posterior {
  readonly logLikelihood: number;
  /** Means [m] and covariances [m, m] of f at the points. */
  readonly at: (zs: Points) => { readonly mean: Float64Array; readonly covariance: Float64Array };
}

/** K_XX with something on its diagonal, factorised. */
function factorised(kernel: Kernel, xs: Points, noise: number): Cholesky {
  const covered = gram(kernel, xs, xs);
  for (let i = 0; i < xs.length; i++) covered[i * xs.length + i]! += noise + JITTER * kernel.scale;
  return cholesky(covered, xs.length);
}

/** What noisy values y at points xs tell. */
export function posterior(kernel: Kernel, xs: Points, y: readonly number[]): Posterior {
  const [n, { mean }] = [xs.length, kernel];
  const { solve, logDet } = factorised(kernel, xs, kernel.noise);
  const away = y.map((v) => v - mean);
  const weights = solve(away);
  return {
    logLikelihood: -(away.reduce((s, v, i) => s + v * weights[i]!, 0) + logDet + n * Math.log(2 * Math.PI)) / 2,
    at: (zs) => {
      const m = zs.length;
      const across = gram(kernel, zs, xs); // [m, n]
      const explained = product(across, solve(transposed(across, m, n), m), m, n, m);
      return {
        mean: product(across, weights, m, n, 1).map((v) => v + mean),
        covariance: gram(kernel, zs, zs).map((v, i) => v - explained[i]!),
      };
    },
  };
}

/** What f at points xs itself would tell: f(z) | f(X) ~ N(m + wᵀ(f(X) − m), variance), w = K_XX⁻¹ K_Xz, for as many f as one likes. */
export function interpolation(
  kernel: Kernel,
  xs: Points,
): (z: readonly number[]) => { readonly weights: Float64Array; readonly variance: number } {
  const { solve } = factorised(kernel, xs, 0);
  return (z) => {
    const across = gram(kernel, xs, [z]);
    const weights = solve(across);
    return { weights, variance: Math.max(kernel.scale - weights.reduce((s, w, i) => s + w * across[i]!, 0), 0) };
  };
}
