// Where AdaMSS starts: a weight's principal directions, its outputs sorted into clusters by k-means, and the directions of each cluster.
//   [W | b] ≈ U S V;   the rows of U in K clusters, as they are (not of length 1);   A_k: the first right singular vectors of cluster k's rows
// As in PEFT, whose decompositions are randomised; here they are exact, so that A_k may differ by sign and, a little, by direction.
import { kmeans } from 'ml-kmeans';
import type { Rng } from '../../core/rng.ts';
import { svd } from '../linalg.ts';
import type { Env } from '../method.ts';
import type { Site } from '../site.ts';
import type { AdamssConfig } from './adamss.ts';

/** What one layer starts from. `rows` are those of each cluster. */
export interface Start {
  readonly directions: number;
  readonly V: Float64Array; // [R, in], row by row
  readonly shift: Float64Array | null; // V's column for the bias, [R]
  readonly clusters: readonly { readonly rows: readonly number[]; readonly rank: number; readonly A: Float64Array }[];
}

/** [W | b] taken apart. */
function startOf(
  site: Site<'linear'>,
  w: ArrayLike<number>,
  b: ArrayLike<number> | null,
  c: Pick<AdamssConfig, 'directions' | 'subspaces' | 'rank' | 'threshold'>,
  seed: number,
): Start {
  const [out, into] = site.shape as [number, number];
  const cols = b === null ? into : into + 1;
  const whole = Float64Array.from({ length: out * cols }, (_, k) => {
    const [o, i] = [Math.floor(k / cols), k % cols];
    return i === into ? b![o]! : w[o * into + i]!;
  });
  const R = Math.min(c.directions, out, cols);
  const { u, vt } = svd(whole, out, cols, R);
  const row = (o: number): number[] => Array.from(u.subarray(o * R, (o + 1) * R));
  const { clusters: of } = kmeans(
    Array.from({ length: out }, (_, o) => row(o)),
    Math.min(c.subspaces, out),
    { seed, initialization: 'random', maxIterations: 10 },
  );
  const members = Array.from({ length: Math.min(c.subspaces, out) }, (_, k) => of.flatMap((n, o) => (n === k ? [o] : [])));
  const clusters = members
    .filter((rows) => rows.length > 0)
    .map((rows) => {
      const most = Math.min(rows.length, c.rank, R);
      const { s, vt: a } = svd(Float64Array.from(rows.flatMap(row)), rows.length, R, most);
      const large = c.threshold === null ? most : s.filter((v) => v ** 2 > c.threshold! * s[0]! ** 2).length;
      const rank = Math.max(1, large);
      return { rows, rank, A: a.slice(0, rank * R) };
    });
  const column = (from: number, to: number): Float64Array =>
    Float64Array.from({ length: R * (to - from) }, (_, k) => vt[Math.floor(k / (to - from)) * cols + from + (k % (to - from))]!);
  return { directions: R, V: column(0, into), shift: b === null ? null : column(into, cols), clusters };
}

/** The starts of all layers, in their order. */
export async function startsOf(sites: readonly Site<'linear'>[], c: AdamssConfig, { engine }: Env, r: Rng): Promise<readonly Start[]> {
  const starts: Start[] = [];
  for (const s of sites) {
    const w = (await engine.read(s.weight())).slice();
    const b = s.bias();
    starts.push(startOf(s, w, b === null ? null : await engine.read(b), c, r.split(s.path).below(2 ** 31)));
  }
  return starts;
}
