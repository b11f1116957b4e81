// AutoLoRA: LoRA whose rank-one pieces have shares; what is left after a search are the pieces whose share is large enough.
//   y = W x + b + s·B diag(softmax(α)) A drop(x),   α ∈ ℝʳ for each layer, 1 at the start (equal shares);   s = lora_alpha/r
//   A and B fit the training data, α the validation data: autoLoraSearch.ts. A single trainer trains all three on the same data.
// Zhang et al. 2024 (NAACL), arXiv 2403.09113, §3, and the authors' code (r = 8, alpha 16 in the search).
import { softmax } from '../../core/ops/fused.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { checkUpdate, dropped, type Factors, factors, type LoraConfig, STARTS, scaling, update } from './lora.ts';

export type AutoLora = Factors & { selection: Tensor }; // α [r]

const shares = ({ selection }: AutoLora): Tensor => softmax(selection.reshape(1, -1)); // [1, r]

/** Count: r(in + out) + r for each layer. */
export const autoLora = defineMethod<'linear', LoraConfig, AutoLora>({
  name: 'autoLora',
  family: 'reparameterized',
  paper: 'arXiv:2403.09113',
  at: 'linear',
  defaults: { rank: 8, alpha: 16, rankStabilized: false, dropout: 0, init: 'kaiming', where: ['q', 'v'] },
  takes: { init: STARTS },
  check: checkUpdate('autoLora'),
  init: (site, c, r) => ({
    train: { ...factors(site, c, r), selection: param(new Float32Array(c.rank).fill(1), [c.rank], { decay: false }) },
  }),
  around: (call, p, c, site) => (x, ctx) =>
    call(x, ctx).add(dropped(x, c, site, ctx).matmul(p.A.T).mul(shares(p)).matmul(p.B.T).mul(scaling(c))),
  fold: ({ weight, bias }, p, c) => ({ weight: weight.add(p.B.mul(shares(p)).matmul(p.A).mul(scaling(c))), bias }),
  count: (sites, c) => {
    const train = update.count(sites, c).train + sites.length * c.rank;
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
