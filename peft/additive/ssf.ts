// SSF: every linear layer's output, and every norm's, scaled and shifted channel by channel.
//   y ← γ ⊙ y + β;   merged: W ← diag(γ) W, b ← γ ⊙ b + β, and a norm's gain and shift alike
// Lian et al. 2022, arXiv 2210.08823, §3.2.
import { reshape } from '../../core/ops/move.ts';
import type { Rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import type { Kind, Weights } from '../../nn/layer.ts';
import { defineMethod } from '../attach.ts';
import { hybrid } from '../combine.ts';
import type { Options, Transform } from '../method.ts';
import type { Site } from '../site.ts';

export interface SsfConfig {
  readonly init: 'normal' | 'identity'; // γ ~ N(1, 0.02²), β ~ N(0, 0.02²) as the authors; or exactly 1 and 0
}
type Ssf = { readonly gamma: Tensor; readonly beta: Tensor };

/** What the two places share: the layer's output has as many channels as its weight has rows. */
const equation = {
  family: 'additive' as const,
  paper: 'arXiv:2210.08823' as const,
  init: ({ shape: [n] }: Site<Kind>, { init }: SsfConfig, r: Rng): { train: Ssf } => {
    const draw = (name: string, mean: number): Float32Array =>
      init === 'normal' ? r.split(name).normal(n!, 0.02, mean) : new Float32Array(n!).fill(mean);
    return {
      train: {
        gamma: param(draw('gamma', 1), [n!], { decay: false }),
        beta: param(draw('beta', -0), [n!], { decay: false }), // y + −0 is y bit for bit
      },
    };
  },
  fold: ({ weight, bias }: Weights, { gamma, beta }: Ssf): Weights => ({
    weight: weight.mul(weight.shape.length === 1 ? gamma : reshape(gamma, [-1, 1])),
    bias: bias === null ? beta : bias.mul(gamma).add(beta),
  }),
  count: (sites: readonly Site<Kind>[]): { train: number; stored: number } => {
    const train = sites.reduce((n, { shape: [out] }) => n + 2 * out!, 0);
    return { train, stored: train };
  },
  startsAsBase: ({ init }: SsfConfig) => (init === 'identity' ? ('bitwise' as const) : ('no' as const)),
};

export const ssfLinear = defineMethod<'linear', SsfConfig, Ssf>({
  name: 'ssfLinear',
  at: 'linear',
  defaults: { init: 'normal', where: /\bblocks\./ },
  takes: { init: ['normal', 'identity'] },
  ...equation,
  around:
    (call, { gamma, beta }) =>
    (x, ctx) =>
      call(x, ctx).mul(gamma).add(beta),
  byRow: true,
});
export const ssfNorm = defineMethod<'norm', SsfConfig, Ssf>({
  name: 'ssfNorm',
  at: 'norm',
  defaults: { init: 'normal', where: /./ },
  takes: { init: ['normal', 'identity'] },
  ...equation,
  around:
    (call, { gamma, beta }) =>
    (x, ctx) =>
      call(x, ctx).mul(gamma).add(beta),
  byRow: true,
});

/**
 * All linear layers of the blocks and all norms. The scale of the feed-forward's first layer comes before the activation, as in the
 * authors' code. Their networks are for images and have a patch embedding, which is adapted too; a text's embedding table is not.
 * Merged, it costs nothing (a linear layer or norm without a bias gets one). Not decayed: decay would pull γ to 0.
 * Count: 2·Σ outputs, 2(7d + f) per block with d → d attention, and 2d for each norm outside the blocks.
 */
export const ssf = (options: Options<SsfConfig> = {}): Transform => {
  const { where: _, ...own } = options; // each part knows its places
  return hybrid('ssf', ssfLinear(own), ssfNorm(own));
};
