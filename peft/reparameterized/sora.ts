// SoRA: LoRA with a gate on each rank, which an optimizer step shrinks and, when small, closes for good measure.
//   y = W x + b + s·B (g ⊙ A drop(x)),   after each step g ← T_ξ(g),   T_ξ(g) = sgn(g)·max(|g| − ξ, 0)
// Ding et al. 2023, arXiv 2311.11696, §3.2 (ξ = η_t λ there; their code uses the constant ξ). Their code also zeroes what ends below ξ, that is
// all |g| < 2ξ; `threshold: 'soft'` is the paper's operator. A ~ U(±1/√in), B = 0, g ~ N(0, 1).
import { abs, ge, max, sign, where } from '../../core/ops/map.ts';
import { param, paramOf, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between } from '../check.ts';
import { checkUpdate, dropped, type Factors, factors, scaling, type UpdateConfig, update } from './lora.ts';

export interface SoraConfig extends UpdateConfig {
  readonly xi: number; // ξ, in the units of g, per step
  readonly threshold: 'authors' | 'soft';
}

export type Sora = Factors & { g: Tensor };

/** T_ξ, or that with everything below 2ξ set to zero. */
export function shrink(g: Tensor, { xi, threshold }: Pick<SoraConfig, 'xi' | 'threshold'>): Tensor {
  const soft = sign(g).mul(max(abs(g).sub(xi), 0));
  return threshold === 'soft' ? soft : where(ge(abs(g), 2 * xi), soft, 0);
}

export const sora = defineMethod<'linear', SoraConfig, Sora>({
  name: 'sora',
  family: 'reparameterized',
  paper: 'arXiv:2311.11696',
  at: 'linear',
  defaults: { rank: 8, alpha: 16, rankStabilized: false, dropout: 0, xi: 3e-4, threshold: 'authors', where: ['q', 'v'] },
  takes: { threshold: ['authors', 'soft'] },
  check: (site, c) => {
    checkUpdate('sora')(site, c);
    between('sora', 'xi', c.xi, 0, Number.MAX_VALUE);
  },
  init: (site, c, r) => ({
    train: {
      ...factors(site, { ...c, init: 'kaiming' }, r.split('A')),
      g: param(r.split('g').normal(c.rank), [c.rank], { decay: false }),
    },
  }),
  around:
    (call, { A, B, g }, c, site) =>
    (x, ctx) =>
      call(x, ctx).add(dropped(x, c, site, ctx).matmul(A.T).mul(g).matmul(B.T).mul(scaling(c))),
  fold: ({ weight, bias }, { A, B, g }, c) => ({ weight: weight.add(B.mul(g).matmul(A).mul(scaling(c))), bias }),
  hooks: ({ g }, c) => {
    const gate = paramOf(g);
    return gate === null ? {} : { afterStep: ({ next }) => new Map([[gate, shrink(next(gate), c)]]) };
  },
  count: (sites, c) => {
    const train = update.count(sites, c).train + sites.length * c.rank;
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
