// Mixtures of Gaussians with full covariances, fitted by expectation maximisation from the clusters of k-means.
//   p(x) = Σ_k π_k N(x; μ_k, Σ_k),   r_k(x) = π_k N(x; μ_k, Σ_k) / p(x)
//   π_k = mean r_k,   μ_k = Σ r_k x / Σ r_k,   Σ_k = Σ r_k (x − μ_k)(x − μ_k)ᵀ / Σ r_k + floor·I   (sums over the texts x)
import { kmeans } from 'ml-kmeans';
import { cholesky } from './linalg.ts';

type Rows = readonly (readonly number[])[];

export interface Mixture {
  readonly weights: readonly number[]; // π [k]
  readonly means: Rows; // [k, d]
  readonly covariances: readonly Float64Array[]; // k of [d, d]
}
export interface MixtureOptions {
  readonly seed?: number;
  readonly iterations?: number; // 100 at most
  readonly tolerance?: number; // 1e-3: gain in the mean log-likelihood below which it ends
  readonly floor?: number; // 1e-6: on the covariances' diagonals
}

/** log(π_k N(x; μ_k, Σ_k)) for every row x and component k: [n, k]. */
function logDensities({ weights, means, covariances }: Mixture, rows: Rows): number[][] {
  const d = means[0]!.length;
  const parts = covariances.map((c) => cholesky(c, d));
  return rows.map((x) =>
    parts.map(({ logDet, solve }, k) => {
      const away = x.map((v, i) => v - means[k]![i]!);
      const distance = solve(away).reduce((s, v, i) => s + v * away[i]!, 0);
      return Math.log(weights[k]!) - (d * Math.log(2 * Math.PI) + logDet + distance) / 2;
    }),
  );
}

/** Each row's shares r_k(x), which sum to 1 [n, k], and the rows' mean log-likelihood. */
export function shares(mixture: Mixture, rows: Rows): { readonly shares: Rows; readonly likelihood: number } {
  const logs = logDensities(mixture, rows);
  const whole = logs.map((row) => {
    const top = Math.max(...row);
    return top + Math.log(row.reduce((s, v) => s + Math.exp(v - top), 0));
  });
  return {
    shares: logs.map((row, i) => row.map((v) => Math.exp(v - whole[i]!))),
    likelihood: whole.reduce((s, v) => s + v, 0) / rows.length,
  };
}

/** The mixture that makes rows with these shares most likely. A component without any row keeps a weight of almost 0. */
export function maximised(rows: Rows, r: Rows, floor: number): Mixture {
  const d = rows[0]!.length;
  const components = r[0]!.map((_, k) => {
    const mass = r.reduce((s, row) => s + row[k]!, 10 * Number.EPSILON);
    const mean = rows[0]!.map((_, i) => rows.reduce((s, x, n) => s + r[n]![k]! * x[i]!, 0) / mass);
    const covariance = new Float64Array(d * d);
    for (let i = 0; i < d; i++)
      for (let j = 0; j <= i; j++) {
        const c = rows.reduce((s, x, n) => s + r[n]![k]! * (x[i]! - mean[i]!) * (x[j]! - mean[j]!), 0) / mass;
        covariance[i * d + j] = covariance[j * d + i] = i === j ? c + floor : c;
      }
    return { mass, mean, covariance };
  });
  return {
    weights: components.map((c) => c.mass / rows.length),
    means: components.map((c) => c.mean),
    covariances: components.map((c) => c.covariance),
  };
}

/**
 * A mixture of `components` fitted to rows [n, d], n ≥ components. Each iteration makes the rows at least as likely as before, but for
 * the floor. Where rows are fewer than dimensions a full covariance is singular, and the floor alone holds it up.
 */
export function gaussianMixture(
  rows: Rows,
  components: number,
  { seed = 0, iterations = 100, tolerance = 1e-3, floor = 1e-6 }: MixtureOptions = {},
): Mixture {
  if (!Number.isInteger(components) || components < 1 || components > rows.length)
    throw new RangeError(`gaussianMixture: ${components} components for ${rows.length} rows; use a whole number from 1 to ${rows.length}`);
  const { clusters } = kmeans(
    rows.map((x) => [...x]),
    components,
    { seed },
  );
  let mixture = maximised(
    rows,
    clusters.map((c) => Array.from({ length: components }, (_, k) => (k === c ? 1 : 0))),
    floor,
  );
  for (let k = 0, before = Number.NEGATIVE_INFINITY; k < iterations; k++) {
    const { shares: r, likelihood } = shares(mixture, rows);
    if (likelihood - before < tolerance) break;
    before = likelihood;
    mixture = maximised(rows, r, floor);
  }
  return mixture;
}
