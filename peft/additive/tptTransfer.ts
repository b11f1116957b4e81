// TPT's transfer: which prompt is projected, and a projector trained to bring the prompts of known tasks near each other.
//   L = mean over tasks of ‖Proj(P_s) − P_t‖²,  P_s and P_t the prompts of one task on the source network and on the target's
// Su et al. 2022, arXiv 2111.06719, §5.1 (distance minimizing; task tuning is training a model with `tpt` on it as any other).
import { square } from '../../core/ops/map.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Model } from '../../nn/layer.ts';
import { ownOf, promptsOf, withFixed } from './sourcePrompts.ts';
import { projected, type Tpt, type TptConfig } from './tptProjector.ts';

/** A model with `tpt` on it, its source prompt that of a model with prompt tuning on another network. */
export const tptSource = (target: Model, source: Model): Model => withFixed(target, 'tpt', { source: promptsOf('tpt', [source]) });

/**
 * Distance minimizing: a loss for the projector of a model with `tpt` on it. Each pair is one task: a model on the source network and one
 * on the target's, both with prompt tuning. The released code has task tuning only; that distances are squared and averaged is of memory.
 */
export function tptDistance(model: Model, pairs: readonly (readonly [source: Model, target: Model])[]): Tensor {
  const { own, config } = ownOf<Tpt, TptConfig>(model, 'tpt');
  if (own.W1 === undefined) throw new Error('tptDistance: this model is finished, and its projector is gone');
  const from = promptsOf(
    'tptDistance',
    pairs.map(([source]) => source),
  ); // [N, p, d_s]
  const to = promptsOf(
    'tptDistance',
    pairs.map(([, target]) => target),
  ); // [N, p, d]
  return square(projected(own, from, config).sub(to))
    .sum()
    .div(pairs.length);
}
