// Rows made orthonormal inside the graph, so that a gradient goes through it.
//   v_k = r_k − Σ_{j<k} (r_k·q_j) q_j,   q_k = v_k / |v_k|
import { rsqrt, square } from '../../core/ops/map.ts';
import { concat } from '../../core/ops/move.ts';
import { sum } from '../../core/ops/reduce.ts';
import type { Tensor } from '../../core/tensor.ts';

/** Rows made orthonormal one after the other (Gram–Schmidt), so that R is free to move and R Rᵀ = I all the same. [r, d] */
export function orthonormal(rows: Tensor): Tensor {
  const done: Tensor[] = [];
  for (let k = 0; k < rows.shape[0]!; k++) {
    const v = done.reduce((left, q) => left.sub(q.mul(sum(left.mul(q), [1], true))), rows.slice(0, k, k + 1)); // [1, d]
    done.push(v.mul(rsqrt(sum(square(v), [1], true))));
  }
  return concat(done, 0);
}
