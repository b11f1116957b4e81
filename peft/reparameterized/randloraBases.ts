// RandLoRA's random bases: one A and n of B, frozen, drawn for the largest layer and cut to size by the others.
import type { Rng } from '../../core/rng.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import type { Site } from '../site.ts';
import type { Randlora, RandloraConfig } from './randlora.ts';

/** The smaller and the larger side of a weight. */
export const sides = ([out, into]: readonly number[]): { small: number; large: number } => ({
  small: Math.min(out!, into!),
  large: Math.max(out!, into!),
});
/** Sides and number of bases of the largest layer, which all are cut from. */
export function whole(sites: readonly Site<'linear'>[], rank: number): { n: number; small: number; large: number } {
  const { small, large } = sides([0, 1].map((d) => Math.max(...sites.map((s) => s.shape[d]!))));
  return { n: Math.ceil(small / rank), small, large };
}
/** Numbers of deviation 1, drawn from U(±1); sparse ones are the signs of those that are large, else 0. */
function base(size: number, kind: RandloraConfig['bases'], small: number, r: Rng): Float32Array {
  const u = r.uniform(size, -1, 1);
  const share = kind === 'sparse' ? 1 / 3 : 1 / Math.sqrt(small);
  const values = kind === 'dense' ? u : u.map((v) => (Math.abs(v) < 1 - share ? 0 : Math.sign(v)));
  const mean = values.reduce((a, b) => a + b, 0) / size;
  const deviation = Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / (size - 1));
  return values.map((v) => v / (deviation || 1));
}

/** A [r, small] and B [large, n, r] for all layers. */
export function drawnBases(sites: readonly Site<'linear'>[], { rank, bases }: RandloraConfig, r: Rng): Record<'A' | 'B', Tensor> {
  const { n, small, large } = whole(sites, rank);
  return {
    A: leaf(base(rank * small, bases, small, r.split('A')), [rank, small]),
    B: leaf(base(n * large * rank, bases, small, r.split('B')), [large, n, rank]),
  };
}
/** The first bases, and the first rows of each, that a layer uses. */
export function cut({ A, B, lambda, gamma }: Randlora, shape: readonly number[]): Randlora {
  const { small, large } = sides(shape);
  return { A: A.slice(1, 0, small), B: B.slice(0, 0, large).slice(1, 0, lambda.shape[1]!), lambda, gamma };
}
