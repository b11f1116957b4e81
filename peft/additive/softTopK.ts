// CoDA's differentiable top-k: how much each token of a text counts among the k picked.
//   λ = argmax sᵀλ + ε H(λ) over λ ∈ [0, 1]ⁿ with Σ λ = k;   by turns  u = ε (ln k − lse((s + v)/ε)),  v = min(−s − u, 0)
//   λ = exp((s + u + v)/ε), where ε falls from 4 by 0.7 a turn to its last value
// Lei et al. 2023, arXiv 2304.04947, §3.
import { oneHot } from '../../core/ops/index.ts';
import { where as choose, exp, min, stopGradient } from '../../core/ops/map.ts';
import { argmax, logsumexp } from '../../core/ops/reduce.ts';
import type { Tensor } from '../../core/tensor.ts';

export interface TopK {
  readonly epsilon: number; // the last ε
  readonly turns: number;
}

/** λ [B, n] for scores [B, n]: each in [0, 1], and the sum of a row k once the turns have settled. */
export function softTopK(s: Tensor, k: number, { epsilon, turns }: TopK): Tensor {
  let [v, u] = [s.neg(), s];
  let e = Math.max(4, epsilon);
  for (let n = 0; n < turns; n++) {
    u = logsumexp(s.add(v).div(e), [-1], true).neg().add(Math.log(k)).mul(e);
    v = min(s.add(u).neg(), 0);
    if (n < turns - 1) e = Math.max(0.7 * e, epsilon);
  }
  return exp(s.add(u).add(v).div(e));
}

/** λ where it is one of the k largest of its row, else 0; padding is never picked before real tokens. */
export function picked(s: Tensor, k: number, c: TopK): Tensor {
  const lambda = softTopK(s, k, c);
  let left = stopGradient(s); // λ rises with s; of equals the first
  let all: Tensor | null = null;
  for (let n = 0; n < k; n++) {
    const one = oneHot(argmax(left), s.shape.at(-1)!);
    left = choose(one, -1e30, left);
    all = all === null ? one : all.add(one);
  }
  return lambda.mul(all!);
}
