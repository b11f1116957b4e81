// UniLoRA's one vector and who reads it: an index into θ for every element of every factor, such that all indices serve alike.
//   the elements of all factors in a row, D of them, permuted at random; the k-th takes index k mod d, so that n_i is ⌊D/d⌋ or ⌈D/d⌉
import type { Rng } from '../../core/rng.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import type { Site } from '../site.ts';
import type { UniLoraConfig } from './uniLora.ts';

/** θ [d] and 1/√n_i [d] for the whole model; the indices of each layer by path, A's first. */
export interface Shared {
  readonly theta: Tensor;
  readonly norm: Tensor;
  readonly indices: ReadonlyMap<string, Int32Array>;
}
/** θ ~ U(±bound), and where it is read. */
export function laidOut(sites: readonly Site<'linear'>[], { rank, size, bound }: UniLoraConfig, r: Rng): Shared {
  const lengths = sites.map(({ shape: [out, into] }) => rank * (out! + into!));
  const total = lengths.reduce((a, b) => a + b);
  const permuted = r.split('indices').permutation(total);
  const balanced = permuted.map((k) => k % size); // of a permutation, so that all indices serve alike
  const used = Array.from({ length: size }, (_, i) => Math.floor(total / size) + (i < total % size ? 1 : 0));
  const norm = used.map((n) => (n === 0 ? 0 : 1 / Math.sqrt(n)));
  const starts = lengths.map((_, k) => lengths.slice(0, k).reduce((a, b) => a + b, 0));
  return {
    theta: param(r.split('theta').uniform(size, -bound, bound), [size]),
    norm: leaf(norm, [size]),
    indices: new Map(sites.map((s, k) => [s.path, Int32Array.from(balanced.slice(starts[k]!, starts[k]! + lengths[k]!))])),
  };
}
