// MoLoRA: E low-rank updates beside a linear layer, mixed token by token by a router.
//   y = W x + b + s·Σ_e g_e(x) B_e A_e x,   g = softmax(W_r x),   s = α/r;   A = [A_1; …; A_E] ∈ ℝ^{Er×in}, B = [B_1, …, B_E] ∈ ℝ^{out×Er}
// Zadouri et al. 2023, arXiv 2309.05444, §3.2.
import { reshape } from '../../core/ops/move.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between, wholeNumber } from '../check.ts';
import { checkUpdate, dropped } from '../reparameterized/lora.ts';
import { newRouter, type RouterConfig, routed } from './router.ts';

export interface MoloraConfig extends RouterConfig {
  readonly rank: number; // r of each expert
  readonly alpha: number;
  readonly dropout: number; // on x, on this branch only; the router reads x whole
}
type Molora = { readonly A: Tensor; readonly B: Tensor; readonly router: Tensor };

/**
 * The experts' answers are weighed before B, which is the same as mixing them after it. A ~ U(±1/√in), B = 0. One expert is LoRA.
 * Count per site: E·r(in + out) + E·in.
 */
export const molora = defineMethod<'linear', MoloraConfig, Molora>({
  name: 'molora',
  family: 'additive',
  paper: 'arXiv:2309.05444',
  at: 'linear',
  defaults: { experts: 10, rank: 4, alpha: 4, dropout: 0, balance: 0, where: ['q', 'v'] },
  check: (site, c) => {
    checkUpdate('molora')(site, { ...c, rankStabilized: false });
    wholeNumber('molora', 'experts', c.experts);
    between('molora', 'balance', c.balance, 0, Number.MAX_VALUE);
  },
  init: ({ shape: [out, into] }, { experts, rank }, r) => ({
    train: {
      A: param(r.split('A').uniform(experts * rank * into!, -1 / Math.sqrt(into!), 1 / Math.sqrt(into!)), [experts * rank, into!]),
      B: param(new Float32Array(out! * experts * rank), [out!, experts * rank]),
      router: newRouter(experts, into!, r),
    },
  }),
  around:
    (call, { A, B, router }, c, site) =>
    (x, ctx) => {
      const low = dropped(x, c, site, ctx).matmul(A.T); // [..., E·r]
      const g = routed(x, router, c, ctx, site.path);
      const weighed = reshape(low, [...g.shape, c.rank]).mul(reshape(g, [...g.shape, 1])); // [..., E, r]
      return call(x, ctx).add(
        reshape(weighed, low.shape)
          .matmul(B.T)
          .mul(c.alpha / c.rank),
      );
    },
  count: (sites, { experts, rank }) => {
    const train = sites.reduce((n, { shape: [out, into] }) => n + experts * (rank * (out! + into!) + into!), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
