// NOLA: both factors of a LoRA are combinations of fixed random matrices, of which only the coefficients are trained.
//   y = W x + b + s·B A x,   A = A₀ + k^-½ Σᵢ αᵢ Aᵢ,   B = k^-½ Σⱼ βⱼ Bⱼ,   s = α/r,   i, j = 1 … k
//   Aᵢ ∈ ℝ^{r×in} and Bⱼ ∈ ℝ^{out×r} ~ U(±1);   α = β = 0 at the start;   A₀ ~ U(±1/√in), as LoRA's A
// Koohpayegani et al. 2024, arXiv 2310.02556, §3. A₀ is in the authors' code only: without it α = β = 0 could never move.
import { rng } from '../../core/rng.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import type { Site } from '../site.ts';
import { checkUpdate, dropped, type Factors, scaling, type UpdateConfig } from './lora.ts';

export interface NolaConfig extends UpdateConfig {
  readonly basis: number; // k, for each of A and B
  readonly projection: number; // seed of A₀ and of the bases, which are drawn again and not stored
}
type Nola = { a: Tensor; b: Tensor }; // α and β, [k]

/** A₀ and the bases of one layer, drawn when first asked for. */
function bases({ shape: [out, into], path }: Site<'linear'>, { rank, basis, projection }: NolaConfig): (p: Nola) => Factors {
  const held: { A0?: Tensor; As?: Tensor; Bs?: Tensor } = {};
  const uniform = (name: string, size: number, bound: number): Float32Array =>
    rng(projection).split(`nola ${path}`).split(name).uniform(size, -bound, bound);
  const unit = 1 / Math.sqrt(basis);
  return ({ a, b }) => {
    held.A0 ??= leaf(uniform('A0', rank * into!, 1 / Math.sqrt(into!)), [rank, into!]);
    held.As ??= leaf(uniform('A', basis * rank * into!, unit), [basis, rank * into!]);
    held.Bs ??= leaf(uniform('B', basis * out! * rank, unit), [basis, out! * rank]);
    return {
      A: held.A0.add(a.reshape(1, basis).matmul(held.As).reshape(rank, into!)),
      B: b.reshape(1, basis).matmul(held.Bs).reshape(out!, rank),
    };
  };
}

/** Any rank for the same numbers: rank and k are chosen apart. Count: 2k for each layer, trained and stored. */
export const nola = defineMethod<'linear', NolaConfig, Nola>({
  name: 'nola',
  family: 'reparameterized',
  paper: 'arXiv:2310.02556',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, basis: 512, projection: 0, where: ['q', 'v'] },
  check: (site, c) => {
    checkUpdate('nola')(site, c);
    wholeNumber('nola', 'basis', c.basis);
    wholeNumber('nola', 'projection', c.projection, 0);
  },
  init: (_, { basis }) => {
    const zeros = (): Tensor => param(new Float32Array(basis), [basis], { decay: false });
    return { train: { a: zeros(), b: zeros() } };
  },
  around: (call, p, c, site) => {
    const factors = bases(site, c);
    return (x, ctx) => {
      const { A, B } = factors(p);
      return call(x, ctx).add(dropped(x, c, site, ctx).matmul(A.T).matmul(B.T).mul(scaling(c)));
    };
  },
  fold: ({ weight, bias }, p, c, site) => {
    const { A, B } = bases(site, c)(p);
    return { weight: weight.add(B.matmul(A).mul(scaling(c))), bias };
  },
  count: (sites, { basis }) => ({ train: 2 * basis * sites.length, stored: 2 * basis * sites.length }),
  startsAsBase: () => 'close', // adds an exact zero
});
