// BEFT: a trained vector is added to the values of attention, whether or not they have a bias.
//   v = W_v x + b + δ,   δ ∈ ℝ^{out}, 0 at the start
// arXiv 2509.15974, as built in PEFT. Of all biases, that of the values alone. Count: out for each layer.
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';

export const beft = defineMethod<'linear', object, { delta: Tensor }>({
  name: 'beft',
  family: 'selective',
  paper: 'arXiv:2509.15974',
  at: 'linear',
  defaults: { where: ['v'] },
  init: ({ shape: [out] }) => ({ train: { delta: param(new Float32Array(out!), [out!]) } }),
  around:
    (call, { delta }) =>
    (x, ctx) =>
      call(x, ctx).add(delta),
  fold: ({ weight, bias }, { delta }) => ({ weight, bias: bias === null ? delta : bias.add(delta) }),
  count: (sites) => {
    const train = sites.reduce((n, { shape: [out] }) => n + out!, 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
