// BitFit: only the bias vectors are trained.
//   y = W x + (b + δ)
// Ben Zaken et al. 2022, arXiv 2106.10199, §3.
import { size } from '../../core/shape.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';

/**
 * All biases by default, those of norms included; subsets by `where`: the paper's query and first feed-forward bias are
 * `where: ['q.bias', 'up.bias']`. A task's new head is trained besides: `unfreeze(model, (path) => path.startsWith('head'))`.
 * The change δ is trained, not decayed, and starts at −0: b + −0 is b bit for bit, even where b is −0. Count: the biases' sizes.
 */
export const bitfit = defineMethod<'weight', object, { readonly delta: Tensor }>({
  name: 'bitfit',
  family: 'selective',
  paper: 'arXiv:2106.10199',
  at: 'weight',
  defaults: { where: /\.bias$/ },
  otherwise:
    'It trains biases, and there are none here (LLaMA has none): use ia3, lora or norm tuning, or build the model with bias: true.',
  check: (site) => {
    if (!site.path.endsWith('.bias'))
      throw new Error(`bitfit: ${site.path} is not a bias, and bitfit trains only those; name biases, as in where: ['q.bias', 'up.bias']`);
  },
  init: ({ layer }) => {
    const { shape } = layer();
    return { train: { delta: param(new Float32Array(size(shape)).fill(-0), shape, { decay: false }) } };
  },
  around:
    (call, { delta }) =>
    () =>
      call().add(delta),
  fold: ({ weight, bias }, { delta }) => ({ weight: weight.add(delta), bias }),
  count: (sites) => {
    const train = sites.reduce((n, s) => n + size(s.layer().shape), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'bitwise',
});
