// Factors put together from a bank of vectors, and what is kept of them when training is over.
//   segment = Σ_{top k} softmax(the k largest logits)·bank[index]
// Li et al. 2024, arXiv 2405.15179, §3.
import { softmax } from '../../core/ops/fused.ts';
import { gather, oneHot, takeAlong } from '../../core/ops/index.ts';
import { where } from '../../core/ops/map.ts';
import { concat } from '../../core/ops/move.ts';
import { argmax } from '../../core/ops/reduce.ts';
import type { Tensor } from '../../core/tensor.ts';

/** logitsA [r, in/b, h], logitsB [out/b, r, h]; or their largest k (A, then B): indices [.., k] and weights [.., k − 1]. */
type Trained = { bank: Tensor; logitsA: Tensor; logitsB: Tensor };

type Compressed = { bank: Tensor; indices: readonly [Tensor, Tensor]; weights: readonly [Tensor, Tensor] };

export type Vblora = Trained | Compressed;

/** Indices [.., k] of the k largest of the last dimension, largest first. */
function largest(logits: Tensor, k: number): Tensor {
  const h = logits.shape.at(-1)!;
  const found: Tensor[] = [];
  for (let left = logits; found.length < k; ) {
    const best = argmax(left); // [..]
    found.push(best.reshape(...best.shape, 1));
    left = where(oneHot(best, h), -1e9, left);
  }
  return concat(found, -1);
}

export const chosen = (logits: Tensor, k: number): { index: Tensor; weight: Tensor } => {
  const index = largest(logits, k);
  return { index, weight: softmax(takeAlong(logits, index)) };
};

/** Σ_k weight·bank[index]: [.., b] */
const mixed = (bank: Tensor, index: Tensor, weight: Tensor): Tensor =>
  gather(bank, index)
    .mul(weight.reshape(...weight.shape, 1))
    .sum([-2]);

/** A [r, in] and B [out, r]. */
export function matrices(p: Vblora, k: number): { A: Tensor; B: Tensor } {
  const [a, b] = 'logitsA' in p ? [chosen(p.logitsA, k), chosen(p.logitsB, k)] : [0, 1].map((n) => whole(p, n as 0 | 1));
  const [A, B] = [mixed(p.bank, a!.index, a!.weight), mixed(p.bank, b!.index, b!.weight)]; // [r, in/b, b], [out/b, r, b]
  return { A: A.reshape(A.shape[0]!, -1), B: B.permute(0, 2, 1).reshape(-1, A.shape[0]!) };
}

/** The last weight is what is missing to 1. */
const whole = ({ indices, weights }: Compressed, n: 0 | 1): { index: Tensor; weight: Tensor } => ({
  index: indices[n],
  weight: concat([weights[n], weights[n].sum([-1], true).neg().add(1)], -1),
});
