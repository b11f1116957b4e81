// MoLE's gate: the shares of a text's experts, from all that they answer.
//   G = softmax(ε/τ),   ε = flat(norm(E₁ ⊕ … ⊕ E_N))ᵀ e
import { softmax } from '../../core/ops/fused.ts';
import { log, rsqrt, square } from '../../core/ops/map.ts';
import type { Rng } from '../../core/rng.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Mole } from './mole.ts';

/** G [B, N] of answers [B, N, T, out]; `real` [B, T] has 1 where a token is one, null: all are. */
export function gatesOf(answers: Tensor, real: Tensor | null, { e, temperature }: Pick<Mole, 'e' | 'temperature'>): Tensor {
  const [b, n, t] = answers.shape as [number, number, number, number];
  const heard = (real === null ? answers : answers.mul(real.reshape(b, 1, t, 1))).reshape(b, -1); // [B, N·T·out]
  const unit = heard.mul(rsqrt(square(heard).sum([1], true).add(1e-12)));
  return softmax(unit.matmul(e.slice(1, 0, t).reshape(-1, n)).div(temperature));
}
/** −log Πᵢ qᵢ, q the mean of the gates [B, N]. */
export const imbalance = (gates: Tensor): Tensor =>
  log(gates.mean([0]))
    .sum()
    .neg();

/** Columns of length 0.01 in random directions. [rows, n] */
export function directions(r: Rng, rows: number, n: number): Float32Array {
  const all = r.normal(rows * n);
  const squares = new Float64Array(n);
  all.forEach((v, i) => {
    squares[i % n]! += v * v;
  });
  return all.map((v, i) => (0.01 * v) / Math.sqrt(squares[i % n]!));
}
