// A router: which of E experts a token should hear, as shares that sum to 1, and a loss that keeps all experts in use.
//   g(x) = softmax(W_r x),   W_r ∈ ℝ^{E×n};   balance = E·Σ_e f_e p_e,  f_e the share of tokens that prefer e, p_e their mean g_e
// Zadouri et al. 2023, arXiv 2309.05444, §3 (soft shares); Fedus et al. 2021, arXiv 2101.03961, §2.2 (balance).
import { softmax } from '../../core/ops/fused.ts';
import { oneHot } from '../../core/ops/index.ts';
import { stopGradient } from '../../core/ops/map.ts';
import { argmax, mean } from '../../core/ops/reduce.ts';
import type { Rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';

export interface RouterConfig {
  readonly experts: number; // E
  readonly balance: number; // weight of the balance loss; 0: none
}

/** W_r ~ N(0, 0.02²): nearly even shares at first. Count: E·n */
export const newRouter = (experts: number, n: number, r: Rng): Tensor => param(r.split('router').normal(experts * n, 0.02), [experts, n]);

/** g(x) [..., E] for x [..., n]; asks for the balance loss under `name` where the configuration weighs it. */
export const routed = (x: Tensor, router: Tensor, c: RouterConfig, ctx: Context, name: string): Tensor =>
  shares(x.matmul(router.T), c, ctx, name);

/** The same from the router's scores [..., E]. */
export function shares(scores: Tensor, { experts, balance }: RouterConfig, ctx: Context, name: string): Tensor {
  const g = softmax(scores);
  if (balance > 0) {
    const tokens = [...g.shape.keys()].slice(0, -1);
    const preferred = mean(oneHot(stopGradient(argmax(g)), experts), tokens); // f [E]
    ctx.aux(
      name,
      preferred
        .mul(mean(g, tokens))
        .sum()
        .mul(experts * balance),
    );
  }
  return g;
}
