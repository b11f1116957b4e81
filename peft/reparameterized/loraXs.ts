// LoRA-XS: an r × r matrix, and nothing else, trained between the weight's own principal directions.
//   y = W x + b + s·B R A drop(x),   W ≈ U_r S_r V_rᵀ,  B = U_r and A = S_r V_rᵀ fixed,   R ~ N(0, σ²)
// Bałazy et al. 2024, arXiv 2405.17604, §3; `split: 'both'` gives each side √S_r instead. σ = 1e-5, so it does not start as the base.
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between } from '../check.ts';
import { svd } from '../linalg.ts';
import { checkUpdate, dropped, type Factors, scaling, type UpdateConfig, update } from './lora.ts';
import { halved } from './residual.ts';

export interface LoraXsConfig extends UpdateConfig {
  readonly sigma: number; // deviation of R
  readonly split: 'input' | 'both'; // which side holds the singular values
}

export const loraXs = defineMethod<'linear', LoraXsConfig, Factors & { R: Tensor }>({
  name: 'loraXs',
  family: 'reparameterized',
  paper: 'arXiv:2405.17604',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, sigma: 1e-5, split: 'input', where: ['q', 'v'] },
  takes: { split: ['input', 'both'] },
  readsWeight: true,
  check: (site, c) => {
    checkUpdate('loraXs')(site, c);
    between('loraXs', 'sigma', c.sigma, 0, Number.MAX_VALUE);
  },
  init: ({ shape: [out, into] }, c, r, given) => {
    const { u, s, vt } = svd(given.weight(), out!, into!, c.rank);
    const { a, b } = c.split === 'both' ? halved(u, s, vt, 1) : { a: vt.map((v, k) => v * s[Math.floor(k / into!)]!), b: u };
    return {
      train: { R: param(r.normal(c.rank ** 2, c.sigma), [c.rank, c.rank]) },
      fixed: { A: leaf(a, [c.rank, into!]), B: leaf(b, [out!, c.rank]) },
    };
  },
  around:
    (call, { A, B, R }, c, site) =>
    (x, ctx) =>
      call(x, ctx).add(dropped(x, c, site, ctx).matmul(A.T).matmul(R.T).matmul(B.T).mul(scaling(c))),
  fold: ({ weight, bias }, { A, B, R }, c) => ({ weight: weight.add(B.matmul(R).matmul(A).mul(scaling(c))), bias }),
  count: (sites, c) => {
    const train = sites.length * c.rank ** 2;
    return { train, stored: train + update.count(sites, c).stored };
  },
  startsAsBase: ({ sigma }) => (sigma === 0 ? 'close' : 'no'),
});
