// The clusters of AdaMSS, which no file has: PEFT makes them of the weight again whenever it loads, and so does this.
//   [W | b] ≈ U S V by torch.svd_lowrank with a seed;   the rows of U in K clusters by scikit-learn's KMeans(init="random", n_init=1, max_iter=10)
// Everything drawn is the same here. What differs is rounding: float32 there, double precision here. The clusters do not depend on signs or turns of U's
// columns, for the distances between rows do not, and so follow from the space that they span, which float32 finds to six digits. A row is
// left open only where it is about as near to two centres. Then every way it may have gone is followed, and the sizes in the file choose.
import { orthonormal, product, type Svd, svd, transposed } from '../../peft/linalg.ts';
import { legacyChoice } from './numpyRandom.ts';
import { normals } from './torchRandom.ts';

/** torch.svd_lowrank(w, q, niter=2) on a CPU after torch.manual_seed(seed), but for signs. w is [out, into]. */
export function svdLowrank(w: Float64Array, out: number, into: number, q: number, seed: number): Svd {
  const [m, n] = [Math.max(out, into), Math.min(out, into)];
  const tall = out >= into ? w : transposed(w, out, into); // [m, n]
  const wide = transposed(tall, m, n);
  const range = (of: Float64Array): Float64Array => orthonormal(product(tall, of, m, n, q), m, q);
  let Q = range(Float64Array.from(normals(seed, n * q)));
  for (let k = 0; k < 2; k++) Q = range(orthonormal(product(wide, Q, n, m, q), n, q));
  const { u, s, vt } = svd(product(transposed(Q, m, q), tall, q, m, n), q, n, q);
  const long = product(Q, u, m, q, q); // [m, q]
  return out >= into ? { u: long, s, vt } : { u: transposed(vt, q, n), s, vt: transposed(long, m, q) };
}

/** KMeans's random_state in PEFT, how often it moves the centres, and scikit-learn's tolerance. */
const [STATE, ITERATIONS, TOLERANCE] = [123456789, 10, 1e-4] as const;
/**
 * How far float32 is off in a row's lead of one centre over another: at most 16 units of the last place in what was measured (decision 350), as a share of twice the row's
 * length times the centres' distance and an eighth of that length, which is for centres side by side. Here it is twice that, and one for each unit of the condition.
 */
const UNITS = 32;
const LAST_PLACE = 2 ** -24;
/** How many ways are followed at most. */
const WAYS = 64;

/**
 * Every sorting of the rows of u [n, q] into K clusters that rounding may have led to: the cluster of each row. `condition` is the largest singular value over the
 * least. Null where there are too many (all rows are equally far apart where q = n), or where a cluster loses all its rows.
 */
export function clusterings(u: Float64Array, n: number, q: number, K: number, condition: number): readonly Int32Array[] | null {
  if (!(condition < 1e6)) return null;
  const error = LAST_PLACE * (UNITS + condition);
  const mean = (c: number): number => Array.from({ length: n }, (_, i) => u[i * q + c]!).reduce((a, b) => a + b, 0) / n;
  const means = Array.from({ length: q }, (_, c) => mean(c));
  const rows = Array.from({ length: n }, (_, i) => Float64Array.from(means, (m, c) => u[i * q + c]! - m));
  const lengths = rows.map((x) => Math.sqrt(dot(x, x)));
  const tolerance = (TOLERANCE * lengths.reduce((sum, l) => sum + l * l, 0)) / (n * q);

  /** All ways in which rows may choose among centres. */
  const nearest = (centres: readonly Float64Array[]): Int32Array[] | null => {
    const sizes = centres.map((c) => Math.sqrt(dot(c, c)));
    let ways = [new Int32Array(n)];
    for (let i = 0; i < n; i++) {
      const far = centres.map((c, k) => sizes[k]! ** 2 - 2 * dot(rows[i]!, c));
      const best = far.indexOf(Math.min(...far));
      const open = far.flatMap((d, k) => {
        const between = Math.sqrt(apart(centres[k]!, centres[best]!));
        const reach = Math.max(lengths[i]!, sizes[k]! + sizes[best]!);
        return k === best || d - far[best]! <= 2 * reach * (between + reach / 8) * error ? [k] : [];
      });
      if (ways.length * open.length > WAYS) return null;
      if (open.length > 1) ways = open.flatMap((k) => ways.map((way) => way.with(i, k)));
      else for (const way of ways) way[i] = best;
    }
    return ways;
  };
  const centresOf = (of: Int32Array): Float64Array[] | null => {
    const counts = new Float64Array(K);
    const sums = Array.from({ length: K }, () => new Float64Array(q));
    for (const [i, k] of of.entries()) {
      counts[k]! += 1;
      for (let c = 0; c < q; c++) sums[k]![c]! += rows[i]![c]!;
    }
    return counts.includes(0) ? null : sums.map((s, k) => s.map((v) => v / counts[k]!)); // scikit-learn would move a far row there
  };

  const ends = new Map<string, Int32Array>();
  const end = (ways: readonly Int32Array[]): void => {
    for (const way of ways) ends.set(way.join(), way);
  };
  const chosen: readonly Float64Array[] = legacyChoice(STATE, n, K).map((i) => rows[i]!);
  let states = [{ before: '', centres: chosen }];
  for (let step = 0; step < ITERATIONS && states.length > 0; step++) {
    const next = new Map<string, readonly Float64Array[]>();
    for (const { before, centres } of states) {
      const ways = nearest(centres);
      if (ways === null) return null;
      for (const way of ways) {
        const key = way.join();
        if (key === before) {
          end([way]);
          continue;
        }
        const moved = centresOf(way);
        if (moved === null) return null;
        const shift = moved.reduce((sum, c, k) => sum + apart(c, centres[k]!), 0);
        if (shift <= 1.01 * tolerance) {
          const last = nearest(moved);
          if (last === null) return null;
          end(last);
        }
        if (shift > 0.99 * tolerance) next.set(key, moved);
      }
    }
    if (next.size + ends.size > WAYS) return null;
    states = [...next].map(([before, centres]) => ({ before, centres }));
  }
  for (const { centres } of states) {
    const last = nearest(centres);
    if (last === null) return null;
    end(last);
  }
  return ends.size > WAYS ? null : [...ends.values()];
}
function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let c = 0; c < a.length; c++) sum += a[c]! * b[c]!;
  return sum;
}
function apart(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let c = 0; c < a.length; c++) sum += (a[c]! - b[c]!) ** 2;
  return sum;
}
