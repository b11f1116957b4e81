// What adamss.py wrote, and the same made here.
import { clusterings, svdLowrank } from '../../io/peft/adamssClusters.ts';
import { normals } from '../../io/peft/torchRandom.ts';

export interface ClusterCase {
  readonly out: number;
  readonly into: number;
  readonly directions: number;
  readonly clusters: number;
  readonly seed: number;
  /** Columns of the weight fade as 1/√i. */
  readonly falling: boolean;
  readonly labels: string;
}
export interface AdamssFixture {
  readonly normals: readonly { readonly seed: number; readonly values: readonly number[] }[];
  readonly choices: readonly { readonly seed: number; readonly n: number; readonly k: number; readonly values: readonly number[] }[];
  readonly clusters: readonly ClusterCase[];
  readonly large: readonly ClusterCase[];
}

/** The ways in which the outputs of a case's weight may be sorted. */
export function madeAgain({ out, into, directions, clusters, seed, falling }: ClusterCase): string[] {
  const drawn = normals(1000 + seed, out * into);
  const w = Float64Array.from(drawn, (v, k) => Math.fround(falling ? v / Math.fround(Math.sqrt((k % into) + 1)) : v));
  const q = Math.min(directions, out, into);
  const { u, s } = svdLowrank(w, out, into, q, seed);
  return (clusterings(u, out, q, clusters, s[0]! / s[q - 1]!) ?? []).map((way) => way.join(''));
}
