// AdaMix's training losses: two passes through different experts must not only fit, but agree. The authors have two forms of it.
// Wang et al. 2022, arXiv 2205.12410, §3.3; their code where they differ.
import { logSoftmax, softmax } from '../../core/ops/fused.ts';
import { stopGradient } from '../../core/ops/map.ts';
import type { Tensor } from '../../core/tensor.ts';
import { type Context, quiet, stochastic } from '../../nn/context.ts';
import type { Loss } from '../../optim/program.ts';

/** How far logits q are from the distribution of logits p: p(log p − log q), elementwise. */
const divergence = (p: Tensor, q: Tensor): Tensor => softmax(p).mul(logSoftmax(p).sub(logSoftmax(q)));
const rows = (logits: Tensor): number => logits.shape.slice(0, -1).reduce((a, b) => a * b, 1);

/** ½[KL(sg(p₂)‖p₁) + KL(sg(p₁)‖p₂)], the mean over rows: the authors' RoBERTa and GPT-2 code. Logits [..., C]. */
export const symmetricKl = (l1: Tensor, l2: Tensor): Tensor =>
  divergence(stopGradient(l2), l1)
    .add(divergence(stopGradient(l1), l2))
    .sum()
    .mul(0.5 / rows(l1));
/** ½[KL(m̄‖p₁) + KL(m̄‖p₂)], m̄ of the mean logits, nothing detached, the mean over all elements: the authors' DeBERTa code. */
export function klToMean(l1: Tensor, l2: Tensor): Tensor {
  const mean = l1.add(l2).mul(0.5);
  return divergence(mean, l1).add(divergence(mean, l2)).mean().mul(0.5);
}

/**
 * AdaMix's training loss over two random passes: `symmetric` is loss(p₁) + symmetricKl(p₁, p₂); `mean` is
 * loss(p₁) + loss(p₂) + λ·klToMean(p₁, p₂). Evaluated, it is the loss of the one quiet pass.
 */
export const twoPasses =
  <M, B>(
    logits: (model: M, batch: B, ctx: Context) => Tensor,
    loss: (logits: Tensor, batch: B) => Tensor,
    { consistency = 'symmetric', lambda = 1 }: { readonly consistency?: 'symmetric' | 'mean'; readonly lambda?: number } = {},
  ): Loss<M, B> =>
  (model, batch, ctx) => {
    const first = logits(model, batch, ctx);
    if (ctx.draw === quiet) return loss(first, batch);
    const second = logits(model, batch, { ...ctx, draw: stochastic(1) });
    if (consistency === 'symmetric') return loss(first, batch).add(symmetricKl(first, second));
    return loss(first, batch).add(loss(second, batch)).add(klToMean(first, second).mul(lambda));
  };
