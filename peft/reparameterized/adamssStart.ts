// Where AdaMSS starts: a weight's principal directions, its outputs sorted into clusters by k-means, and the directions of each cluster.
//   [W | b] ≈ U S V;   the rows of U in K clusters, as they are (not of length 1);   A_k: the first right singular vectors of cluster k's rows
// As in PEFT, whose decompositions are randomised; here they are exact, so that A_k may differ by sign and, a little, by direction.
import { kmeans } from 'ml-kmeans';
import type { Rng } from '../../core/rng.ts';
import { type Svd, svd } from '../linalg.ts';
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

type Sizes = Pick<AdamssConfig, 'directions' | 'subspaces' | 'rank' | 'threshold'>;

/** [W | b], row by row. */
export function withBias(w: ArrayLike<number>, b: ArrayLike<number> | null, [out, into]: readonly [number, number]): Float64Array {
  const cols = b === null ? into : into + 1;
  return Float64Array.from({ length: out * cols }, (_, k) => {
    const [o, i] = [Math.floor(k / cols), k % cols];
    return i === into ? b![o]! : w[o * into + i]!;
  });
}
/** The first `into` columns of vt, and the one for the bias where it is there. */
export function withoutBias(vt: ArrayLike<number>, R: number, into: number): Pick<Start, 'V' | 'shift'> {
  const cols = vt.length / R;
  const column = (from: number, to: number): Float64Array =>
    Float64Array.from({ length: R * (to - from) }, (_, k) => vt[Math.floor(k / (to - from)) * cols + from + (k % (to - from))]!);
  return { V: column(0, into), shift: cols === into ? null : column(into, cols) };
}
/** What follows from U [out, R], V [R, cols] and which rows are in which cluster. */
export function startFrom({ u, vt }: Pick<Svd, 'u' | 'vt'>, members: readonly (readonly number[])[], into: number, c: Sizes): Start {
  const R = u.length / members.flat().length;
  const clusters = members.map((rows) => {
    const most = Math.min(rows.length, c.rank, R);
    const own = Float64Array.from(rows.flatMap((o) => [...u.subarray(o * R, (o + 1) * R)]));
    const { s, vt: a } = svd(own, rows.length, R, most);
    const large = c.threshold === null ? most : s.filter((v) => v ** 2 > c.threshold! * s[0]! ** 2).length;
    const rank = Math.max(1, large);
    return { rows, rank, A: a.slice(0, rank * R) };
  });
  return { directions: R, clusters, ...withoutBias(vt, R, into) };
}

/** [W | b] taken apart, exactly. */
function startOf(whole: Float64Array, [out, into]: readonly [number, number], c: Sizes, seed: number): Start {
  const cols = whole.length / out;
  const R = Math.min(c.directions, out, cols);
  const parts = svd(whole, out, cols, R);
  const { clusters: of } = kmeans(
    Array.from({ length: out }, (_, o) => Array.from(parts.u.subarray(o * R, (o + 1) * R))),
    Math.min(c.subspaces, out),
    { seed, initialization: 'random', maxIterations: 10 },
  );
  return startFrom(
    parts,
    membersOf(of).filter((rows) => rows.length > 0),
    into,
    c,
  );
}
/** The rows of each cluster, from the cluster of each row. */
export function membersOf(of: ArrayLike<number>): number[][] {
  const members: number[][] = Array.from({ length: Math.max(...Array.from(of)) + 1 }, () => []);
  for (const [o, k] of Array.from(of).entries()) members[k]!.push(o);
  return members;
}

/** Where each output stands, cluster after cluster. */
export function placesOf(members: readonly (readonly number[])[]): Int32Array {
  const order = members.flat();
  const place = new Int32Array(order.length);
  for (const [at, o] of order.entries()) place[o] = at;
  return place;
}

/** [W | b] of a site, as numbers. */
export async function numbersOf(s: Site<'linear'>, { engine }: Pick<Env, 'engine'>): Promise<Float64Array> {
  const w = (await engine.read(s.weight())).slice();
  const b = s.bias();
  return withBias(w, b === null ? null : await engine.read(b), s.shape as [number, number]);
}
/** The starts of all layers, in their order. */
export async function startsOf(sites: readonly Site<'linear'>[], c: AdamssConfig, env: Env, r: Rng): Promise<readonly Start[]> {
  const starts: Start[] = [];
  for (const s of sites) starts.push(startOf(await numbersOf(s, env), s.shape as [number, number], c, r.split(s.path).below(2 ** 31)));
  return starts;
}
