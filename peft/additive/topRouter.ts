// MixLoRA's router: the K best experts of every token, their shares, and the loss that keeps experts in use.
//   g = softmax(W_r x),   ĝ = g divided by its sum over the K largest;   balance = E·Σ_e f_e p_e, f_e the choices of e per token, p_e its mean g_e
// Li et al. 2024, arXiv 2404.15159, §3; all K choices count, as in the authors' code.
import { softmax } from '../../core/ops/fused.ts';
import { oneHot } from '../../core/ops/index.ts';
import { where as choose, stopGradient } from '../../core/ops/map.ts';
import { argmax, mean, sum } from '../../core/ops/reduce.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import type { RouterConfig } from './router.ts';

export interface TopConfig extends RouterConfig {
  readonly topK: number; // experts a token hears
}

/** The K largest of each row as ones [..., E]. Of equals the first: E of them, one after the other, are never chosen twice. */
export function largest(g: Tensor, k: number): Tensor {
  const experts = g.shape.at(-1)!;
  let [left, chosen] = [stopGradient(g), oneHot(argmax(stopGradient(g)), experts)];
  let all = chosen;
  for (let n = 1; n < k; n++) {
    left = choose(chosen, -1e9, left);
    chosen = oneHot(argmax(left), experts);
    all = all.add(chosen);
  }
  return all;
}

/** ĝ(x) [..., E]: zero but for the K largest; asks for the balance loss. */
export function routed(x: Tensor, router: Tensor, { experts, topK, balance }: TopConfig, ctx: Context, name: string): Tensor {
  const g = softmax(x.matmul(router.T));
  const chosen = largest(g, topK);
  if (balance > 0) {
    const tokens = [...g.shape.keys()].slice(0, -1);
    ctx.aux(
      name,
      mean(chosen, tokens)
        .mul(mean(g, tokens))
        .sum()
        .mul(experts * balance),
    );
  }
  const kept = g.mul(chosen);
  return kept.div(sum(kept, [kept.shape.length - 1], true));
}
