// The Q of a tall matrix's QR decomposition inside the graph, by reflections: orthonormal columns with the signs that LAPACK gives them.
//   x = column k of H_{k−1} ⋯ H_1 P from row k on,   v = x + sign(x_k)|x| e_k,   H_k = I − 2 v vᵀ/(vᵀv),   Q = H_1 ⋯ H_r I[:, :r]
// Householder 1958; Golub & Van Loan, Matrix Computations, §5.2. Where x_k changes its sign, column k of Q does too: between two such places
// Q is smooth, and its derivative is that of these products.
import { lt, neg, sqrt, square, where } from '../../core/ops/map.ts';
import { sum } from '../../core/ops/reduce.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';

/** A constant column [n, 1]. */
const column = (n: number, value: (row: number) => number): Tensor =>
  leaf(
    Float32Array.from({ length: n }, (_, i) => value(i)),
    [n, 1],
  );

/** P [n, r], r ≤ n, as orthonormal columns [n, r]. */
export function orthonormalColumns(p: Tensor): Tensor {
  const [n, r] = p.shape as readonly [number, number];
  const reflections: ((m: Tensor) => Tensor)[] = [];
  let left = p;
  for (let k = 0; k < Math.min(r, n - 1); k++) {
    const x = left.slice(1, k, k + 1).mul(column(n, (i) => (i < k ? 0 : 1))); // [n, 1]
    const [first, length] = [x.slice(0, k, k + 1), sqrt(sum(square(x), [0], true))]; // [1, 1]
    const v = x.add(column(n, (i) => (i === k ? 1 : 0)).mul(where(lt(first, 0), neg(length), length)));
    const half = sum(square(v), [0], true).mul(0.5);
    const reflect = (m: Tensor): Tensor => m.sub(v.matmul(v.T.matmul(m)).div(half));
    reflections.push(reflect);
    left = reflect(left);
  }
  const eye = leaf(
    Float32Array.from({ length: n * r }, (_, i) => (Math.floor(i / r) === i % r ? 1 : 0)),
    [n, r],
  );
  return reflections.reduceRight((q, reflect) => reflect(q), eye);
}
