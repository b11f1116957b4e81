// DeLoRA: an update of bounded size: rank-one pieces of unit length, and one trained strength.
//   y = W x + b + (λ/r) B Ξ A (‖W‖ ⊙ drop(x)),   Ξ = diag(1/(‖bᵢ‖‖aᵢ‖)),   ‖W‖ the lengths of W's columns, fixed
// Bini et al. 2025, arXiv 2503.18225, §3. B = 0 and λ = 15 at the start; lengths below 1e-4 count as 1e-4, so that 0/0 is 0.
import { max, sqrt, square } from '../../core/ops/map.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { dropoutFits, rankFits } from '../check.ts';
import { columnLengths } from '../linalg.ts';
import { dropped, factors } from './lora.ts';

export interface DeloraConfig {
  readonly rank: number;
  readonly lambda: number; // start of the trained strength
  readonly dropout: number; // on x, on this branch only
}
type Delora = { A: Tensor; B: Tensor; lambda: Tensor; norm: Tensor }; // [r, in], [out, r], [1], [in]

const length = (x: Tensor, axis: number): Tensor => sqrt(max(square(x).sum([axis]), 1e-8));
/** λ/(r‖aᵢ‖‖bᵢ‖) for each of the r pieces. */
const strength = ({ A, B, lambda }: Delora, { rank }: DeloraConfig): Tensor => lambda.mul(1 / rank).div(length(A, 1).mul(length(B, 0)));

/** Count: r(in + out) + 1 for each layer; stored besides: the lengths of W’s columns. */
export const delora = defineMethod<'linear', DeloraConfig, Delora>({
  name: 'delora',
  family: 'reparameterized',
  paper: 'arXiv:2503.18225',
  at: 'linear',
  defaults: { rank: 8, lambda: 15, dropout: 0, where: ['q', 'v'] },
  readsWeight: true,
  check: (site, { rank, dropout }) => {
    rankFits('delora', site, rank);
    dropoutFits('delora', dropout);
  },
  init: (site, { rank, lambda }, r, { weight }) => {
    const [out, into] = site.shape as [number, number];
    return {
      train: { ...factors(site, { rank, init: 'kaiming' }, r), lambda: param([lambda], [1]) },
      fixed: { norm: leaf(columnLengths(weight(), out, into), [into]) },
    };
  },
  around: (call, p, c, site) => (x, ctx) =>
    call(x, ctx).add(dropped(x, c, site, ctx).mul(p.norm).matmul(p.A.T).mul(strength(p, c)).matmul(p.B.T)),
  fold: ({ weight, bias }, p, c) => ({ weight: weight.add(p.B.mul(strength(p, c)).matmul(p.A).mul(p.norm)), bias }),
  count: (sites, { rank }) => {
    const train = sites.reduce((n, { shape: [out, into] }) => n + rank * (out! + into!) + 1, 0);
    return { train, stored: train + sites.reduce((n, { shape: [, into] }) => n + into!, 0) };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
