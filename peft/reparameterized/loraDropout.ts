// LoRA dropout: whole input columns of A and whole output rows of B are dropped in training; the rank stays whole.
//   y = W x + b + s·(m_B ⊙ B A (m_A ⊙ x)),   m ~ Bernoulli(1 − p)/(1 − p), one draw per step for m_A ∈ ℝ^{in} and for m_B ∈ ℝ^{out}
// Lin et al. 2024, arXiv 2404.09610, §3. In evaluation nothing is dropped; `ensemble` averages sampled masks, as the paper does.
import { dropout } from '../../core/ops/fused.ts';
import type { Tensor } from '../../core/tensor.ts';
import { type Context, stochastic } from '../../nn/context.ts';
import { layer, type Model } from '../../nn/layer.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import { checkUpdate, type Factors, factors, type LoraConfig, STARTS, scaling, update } from './lora.ts';

/** x with a share p of its last dimension dropped, the same columns everywhere. */
function columns(x: Tensor, p: number, name: string, ctx: Context): Tensor {
  const mask = p === 0 ? null : ctx.draw.bernoulli(name, [x.shape.at(-1)!], 1 - p);
  return mask === null ? x : dropout(x, mask, 1 - p);
}

export const loraDropout = defineMethod<'linear', LoraConfig, Factors>({
  name: 'loraDropout',
  family: 'reparameterized',
  paper: 'arXiv:2404.09610',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0.5, init: 'kaiming', where: ['q', 'v'] },
  takes: { init: STARTS },
  check: checkUpdate('loraDropout'),
  init: (site, c, r) => ({ train: factors(site, c, r) }),
  around:
    (call, { A, B }, c, { field }) =>
    (x, ctx) => {
      const narrow = columns(x, c.dropout, `${field}.A`, ctx).matmul(A.T); // [B, T, r]
      return call(x, ctx).add(columns(narrow.matmul(B.T), c.dropout, `${field}.B`, ctx).mul(scaling(c)));
    },
  fold: update.fold,
  count: update.count,
  startsAsBase: () => 'close', // adds an exact zero
});

/** The mean output of n passes, each with random draws of its own in every method of the model. It cannot be trained further through itself. */
export function ensemble(model: Model, n: number): Model {
  wholeNumber('ensemble', 'n', n);
  return layer('model', { model }, (f) => (batch, ctx) => {
    const passes = Array.from({ length: n }, (_, pass) => f.model(batch, { ...ctx, draw: stochastic(pass) }));
    return passes.reduce((sum, y) => sum.add(y)).mul(1 / n);
  });
}
