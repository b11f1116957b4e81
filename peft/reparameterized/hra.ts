// HRA: the input of a frozen weight passes a few mirrors: Householder reflections, an orthogonal change of low rank.
//   y = W H₁ ⋯ H_r x + b,   Hᵢ = I − 2 uᵢuᵢᵀ/‖uᵢ‖²,   U = [u₁ … u_r] ∈ ℝ^{in×r}
// Yuan et al. 2024, arXiv 2405.17484, §3. Applied to x one by one: O(r·in) instead of a rotation matrix.
import { square } from '../../core/ops/map.ts';
import { sum } from '../../core/ops/reduce.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';

export interface HraConfig {
  readonly rank: number; // r; even, to start as the base
}
type Hra = { U: Tensor }; // [in, r]

/** x H_r ⋯ H_1 for rows of x [..., in], which is H₁ ⋯ H_r x; or x H_1 ⋯ H_r. */
function reflected(x: Tensor, U: Tensor, reverse: boolean): Tensor {
  const order = Array.from({ length: U.shape[1]! }, (_, k) => k);
  return (reverse ? order.reverse() : order).reduce((y, k) => {
    const u = U.slice(1, k, k + 1); // [in, 1]
    return y.sub(
      y
        .matmul(u)
        .mul(2)
        .matmul(u.T)
        .div(sum(square(u))),
    );
  }, x);
}

/**
 * Columns of U start equal in pairs, Kaiming-uniform: two equal mirrors undo each other. With an odd rank every column is drawn
 * by itself, and it does not start as the base. Defaults as PEFT's: rank 8 on q and v; not decayed, since only directions
 * count. Count: r·in. The authors' Gram–Schmidt variant is left out: it divides by zero at the paired start.
 */
export const hra = defineMethod<'linear', HraConfig, Hra>({
  name: 'hra',
  family: 'reparameterized',
  paper: 'arXiv:2405.17484',
  at: 'linear',
  defaults: { rank: 8, where: ['q', 'v'] },
  check: (_, { rank }) => wholeNumber('hra', 'rank', rank),
  init: ({ shape: [, into] }, { rank }, r) => {
    const each = rank % 2 === 0 ? 2 : 1; // equal columns in a row
    const drawn = rank / each;
    const bound = 1 / Math.sqrt(drawn);
    const u = r.uniform(into! * drawn, -bound, bound); // [in, drawn]
    const paired = Float32Array.from({ length: into! * rank }, (_, k) => u[Math.floor(k / each)]!);
    return { train: { U: param(paired, [into!, rank], { decay: false }) } };
  },
  around:
    (call, { U }) =>
    (x, ctx) =>
      call(reflected(x, U, true), ctx),
  fold: ({ weight, bias }, { U }) => ({ weight: reflected(weight, U, false), bias }),
  count: (sites, { rank }) => {
    const train = sites.reduce((n, { shape: [, into] }) => n + rank * into!, 0);
    return { train, stored: train };
  },
  startsAsBase: ({ rank }) => (rank % 2 === 0 ? 'close' : 'no'),
});
