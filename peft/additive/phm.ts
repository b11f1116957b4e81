// A parametrised hypercomplex multiplication: a matrix as a sum of Kronecker products of small factors.
//   H = Σ_i A_i ⊗ (S_i T_i)
// Zhang et al. 2021, arXiv 2102.08597; the rank-one form is Compacter's (arXiv 2106.04647, §3).
import type { Rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import type { CompacterConfig } from './compacter.ts';

/** H [in, out] = Σ_i A_i ⊗ (S_i T_i): entry (a·in/n + p, b·out/n + q) is Σ_i A_i[a, b] (S_i T_i)[p, q]. */
export function phm(A: Tensor, S: Tensor, T: Tensor): Tensor {
  const n = A.shape[0]!;
  const [rows, cols] = [S.shape[1]!, T.shape[2]!];
  const B = S.matmul(T).reshape(n, rows * cols);
  const H = A.reshape(n, n * n)
    .T.matmul(B)
    .reshape(n, n, rows, cols); // [a, b, p, q]
  return H.permute(0, 2, 1, 3).reshape(n * rows, n * cols);
}

/** Glorot over the sides of each of the n slices [n, rows, cols]. */
export function glorot(n: number, rows: number, cols: number, init: CompacterConfig['init'], r: Rng): Tensor {
  const count = n * rows * cols;
  const bound = Math.sqrt(6 / (rows + cols));
  const numbers = init === 'glorotUniform' ? r.uniform(count, -bound, bound) : r.normal(count, Math.sqrt(2 / (rows + cols)));
  return param(numbers, [n, rows, cols]);
}
