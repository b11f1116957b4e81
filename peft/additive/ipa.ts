// IPA, inference-time policy adapters: a small language model's logits added to those of a large one that is not touched at all.
//   p(token) ∝ p_base(token)·p_policy(token)^α:   logits = base(text) + α·policy(text)
// Lu et al. 2023, arXiv 2305.15065, §2; α = 1 in the authors' code.
import { ShapeError, same, show } from '../../core/shape.ts';
import { BASE, layer, type Model } from '../../nn/layer.ts';

/**
 * One model of two, of one vocabulary: it is trained, evaluated and continues text as any other. Freeze the base, and whatever loss is put
 * on it trains the policy (all of it, or a method on it at paths `policy.…`); backward never enters the base. The authors train with
 * reinforcement learning (Quark) on the joint distribution, which needs rewards and is not here. Their log-softmax over the base's logits
 * (`calibrate`) adds one number to all logits of a token and changes no probability. Throws where the vocabularies differ.
 */
export function ipa(base: Model, policy: Model, { alpha = 1 }: { readonly alpha?: number } = {}): Model {
  if (!Number.isFinite(alpha)) throw new RangeError(`ipa: alpha ${alpha} must be a number; 0 is the base alone`);
  return layer('model', { [BASE]: base, policy, alpha }, (f) => (batch, ctx) => {
    if (ctx.readOut !== undefined)
      throw new Error(
        'ipa: a loss in chunks takes one head at a time, and here the logits of two are added; use a loss over whole logits (nextToken)',
      );
    const [large, small] = [f[BASE](batch, ctx), f.policy(batch, ctx)];
    if (!same(large.shape, small.shape))
      throw new ShapeError(`ipa: the base answers ${show(large.shape)} and the policy ${show(small.shape)}; both must have one vocabulary`);
    return large.add(small.mul(f.alpha));
  });
}
