// LN tuning: only gains and shifts of the norms are trained.
//   norm(x) = (g + δ_g) ⊙ x̂ + (b + δ_b)
// Qi et al. 2022, arXiv 2211.08682; for multi-modal language models Zhao et al. 2023, arXiv 2312.11420.
import { size } from '../../core/shape.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';

/**
 * Every norm by default. Hugging Face PEFT trains copies of gain and shift; here their change δ is trained, which takes the same
 * steps and stacks with other methods. It is not decayed (decay would pull towards the base; PEFT's copies decay towards 0), and
 * starts at −0: g + −0 is g bit for bit. Merged, it is a norm with other numbers.
 * Count: 2d for each layer norm, d for each RMS norm.
 */
export const lnTuning = defineMethod<'weight', object, { readonly delta: Tensor }>({
  name: 'lnTuning',
  family: 'additive',
  paper: 'arXiv:2211.08682',
  at: 'weight',
  defaults: { where: /(^|\.)(norm\w*|first)\.(weight|bias)$/ },
  check: (site) => {
    if (site.shape.length !== 1)
      throw new Error(`lnTuning: ${site.path} is not a norm's gain or shift; name those, as in where: ['norm1.weight', 'norm2.weight']`);
  },
  init: ({ shape }) => ({ train: { delta: param(new Float32Array(size(shape)).fill(-0), shape, { decay: false }) } }),
  around:
    (call, { delta }) =>
    (ctx) =>
      call(ctx).add(delta),
  fold: ({ weight, bias }, { delta }) => ({ weight: weight.add(delta), bias }),
  count: (sites) => {
    const train = sites.reduce((n, s) => n + size(s.shape), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'bitwise',
});
