// Poly's inventory: the share a task has of each skill, and the skills mixed by it.
//   w_t = z_t / Σ_s z_ts,   z_t = sigmoid(logits_t);   A_t = Σ_s w_ts A_s,  B_t = Σ_s w_ts B_s
//   in training z_t = sigmoid(logits_t + log u − log(1 − u)), u ~ U(0, 1) for each row of the batch: a relaxed Bernoulli of temperature 1
// Ponti et al. 2022, arXiv 2202.13914; heads: Caccia et al. 2022, arXiv 2211.03831.
import { clamp, log, sigmoid } from '../../core/ops/map.ts';
import { permute, reshape } from '../../core/ops/move.ts';
import { sum } from '../../core/ops/reduce.ts';
import type { Tensor } from '../../core/tensor.ts';

/** A [Q, S, in/Q, r], B [Q, S, r, out/Q], logits [tasks, Q·S] */
export type Poly = { readonly A: Tensor; readonly B: Tensor; readonly logits: Tensor };

const EDGE = 2 ** -23; // u stays this far from 0 and 1, as in PyTorch's RelaxedBernoulli

/** logits + log u − log(1 − u); without a draw as they are. */
export function relaxed(logits: Tensor, drawn: Tensor | null): Tensor {
  if (drawn === null) return logits;
  const u = clamp(drawn, EDGE, 1 - EDGE);
  return logits.add(log(u)).sub(log(u.neg().add(1)));
}

/** The mixed factors of each row of z's logits [R, Q, S]: A [R, in, r] and B [R, r, out]. */
export function mixed({ A, B }: Poly, logits: Tensor): readonly [Tensor, Tensor] {
  const [rows, heads, skills] = logits.shape as readonly [number, number, number];
  const [into, rank, out] = [A.shape[2]!, A.shape[3]!, B.shape[3]!];
  const z = sigmoid(logits);
  const w = reshape(z.div(sum(z, [2], true).add(1e-12)), [rows, heads, 1, skills]);
  const mix = (t: Tensor, n: number): Tensor => w.matmul(reshape(t, [heads, skills, n])); // [R, Q, 1, n]
  const b = reshape(mix(B, rank * out), [rows, heads, rank, out]);
  return [reshape(mix(A, into * rank), [rows, heads * into, rank]), reshape(permute(b, [0, 2, 1, 3]), [rows, rank, heads * out])];
}
