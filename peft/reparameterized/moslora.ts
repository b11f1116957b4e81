// MoSLoRA: LoRA with a trained mixer between its two factors, so that every row of A meets every column of B.
//   y = W x + b + s·B M A drop(x),   M ∈ ℝ^{r×r};   M = I is LoRA
// Wu et al. 2024, arXiv 2406.11909, §3. M starts uniform within 1/√r, or orthogonal; the paper finds these two best.
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { orthonormal } from '../linalg.ts';
import { checkUpdate, dropped, type Factors, factors, scaling, type UpdateConfig, update } from './lora.ts';

export interface MosloraConfig extends UpdateConfig {
  readonly mixer: 'kaiming' | 'orthogonal';
}

export const moslora = defineMethod<'linear', MosloraConfig, Factors & { M: Tensor }>({
  name: 'moslora',
  family: 'reparameterized',
  paper: 'arXiv:2406.11909',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, mixer: 'kaiming', where: ['q', 'v'] },
  takes: { mixer: ['kaiming', 'orthogonal'] },
  check: checkUpdate('moslora'),
  init: (site, c, r) => {
    const [k, bound, at] = [c.rank, 1 / Math.sqrt(c.rank), r.split('M')];
    const m = c.mixer === 'orthogonal' ? orthonormal(at.normal(k * k), k, k) : at.uniform(k * k, -bound, bound);
    return { train: { ...factors(site, { ...c, init: 'kaiming' }, r.split('A')), M: param(m, [k, k]) } };
  },
  around:
    (call, { A, B, M }, c, site) =>
    (x, ctx) =>
      call(x, ctx).add(dropped(x, c, site, ctx).matmul(A.T).matmul(M.T).matmul(B.T).mul(scaling(c))),
  fold: ({ weight, bias }, { A, B, M }, c) => ({ weight: weight.add(B.matmul(M).matmul(A).mul(scaling(c))), bias }),
  count: (sites, c) => {
    const train = update.count(sites, c).train + sites.length * c.rank ** 2;
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
