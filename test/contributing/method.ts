// A trained stretch of what a linear layer puts out: y = (1 + s·γ) ⊙ (W x + b), γ ∈ ℝ^{out}, γ = 0 at first.
import { add } from '../../core/ops/map.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../../peft/attach.ts';

export interface StretchConfig {
  readonly scale: number; // s; a larger one learns faster
}
const gain = (gamma: Tensor, { scale }: StretchConfig): Tensor => add(1, gamma.mul(scale)); // [out]

export const stretch = defineMethod<'linear', StretchConfig, { gamma: Tensor }>({
  name: 'stretch',
  family: 'additive',
  paper: 'arXiv:2205.05638', // (IA)³, counted from 0 and not from 1
  at: 'linear',
  defaults: { scale: 1, where: ['v', 'o', 'up', 'down'] },
  check: (site, { scale }) => {
    if (scale === 0) throw new RangeError(`stretch: scale 0 at ${site.path} would never learn; leave the method out instead`);
  },
  init: ({ shape: [out] }) => ({ train: { gamma: param(new Float32Array(out!), [out!], { decay: false }) } }),
  around:
    (call, { gamma }, c) =>
    (x, ctx) =>
      call(x, ctx).mul(gain(gamma, c)), // [B, T, out]
  fold: ({ weight, bias }, { gamma }, c) => ({
    weight: weight.mul(gain(gamma, c).reshape(-1, 1)), // [out, in] · [out, 1]
    bias: bias === null ? null : bias.mul(gain(gamma, c)),
  }),
  count: (sites) => {
    const train = sites.reduce((n, { shape: [out] }) => n + out!, 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'bitwise', // multiplies by exactly 1
});
