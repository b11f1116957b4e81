// MonteCLoRA: LoRA whose A is disturbed in training by a mixture of Gaussian samples, of which the variances and shares are learned.
//   y = W x + b + s·B A' drop(x),   A' = A + κ Σ_e π_e diag(√σ²) Z_e in training, A otherwise;   Z_e ∈ ℝ^{r×in} ~ N(0, 1)
//   σ²_i = max(e^{2ρ_i} χ_i, 1e-3), χ_i ~ χ²(r) (the diagonal of a Wishart sample);   π = softmax(μ + √d ⊙ z), z ~ N(0, 1)
//   μ = log α − mean log α,  d = (1/α)(1 − 2/E) + Σ(1/α)/E²,  α = e^ω   (a Dirichlet sample, approximately);   ρ ∈ ℝ^r, ω ∈ ℝ^E trained
//   penalty, a mean over the layers: w·(KL of Dirichlet(α) from Dirichlet(α₀) + KL of the Wishart + KL of the Gaussians) + Σπ² if `entropy`
// arXiv 2411.04358, as built in PEFT, where the second sum of log Γ in the Dirichlet's divergence has the other sign: `divergence: 'exact'`
// has it right. Merging takes A.
import { exp, square } from '../../core/ops/map.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between, wholeNumber } from '../check.ts';
import { checkUpdate, dropped, type Factors, factors, type LoraConfig, STARTS, scaling, update } from './lora.ts';
import { dirichlet, gaussians, wishart } from './montecloraDivergence.ts';
import { mixture } from './montecloraMixture.ts';

export interface MontecloraConfig extends LoraConfig {
  readonly samples: number; // E
  readonly sampleScale: number; // κ
  readonly prior: number; // α₀
  readonly klWeight: number; // w
  readonly entropy: boolean;
  readonly divergence: 'peft' | 'exact';
}
export type Monteclora = Factors & { rho: Tensor; omega: Tensor }; // [r], [E]; gone when finished

/** Defaults as PEFT's. ρ and ω start U(0, 1). Count: r(in + out) + r + E; stored: LoRA's. */
export const monteclora = defineMethod<'linear', MontecloraConfig, Monteclora>({
  name: 'monteclora',
  family: 'reparameterized',
  paper: 'arXiv:2411.04358',
  at: 'linear',
  defaults: {
    ...{ rank: 8, alpha: 8, rankStabilized: false, dropout: 0, init: 'kaiming' },
    ...{ samples: 8, sampleScale: 1e-4, prior: 0.1, klWeight: 1e-5, entropy: false, divergence: 'peft' },
    where: ['q', 'v'],
  },
  takes: { init: STARTS, divergence: ['peft', 'exact'] },
  check: (site, c) => {
    checkUpdate('monteclora')(site, c);
    wholeNumber('monteclora', 'samples', c.samples);
    between('monteclora', 'prior', c.prior, Number.MIN_VALUE, Number.MAX_VALUE);
    for (const name of ['sampleScale', 'klWeight'] as const) between('monteclora', name, c[name], 0, Number.MAX_VALUE);
  },
  init: (site, c, r) => ({
    train: {
      ...factors(site, c, r),
      rho: param(r.split('rho').uniform(c.rank, 0, 1), [c.rank], { decay: false }),
      omega: param(r.split('omega').uniform(c.samples, 0, 1), [c.samples], { decay: false }),
    },
  }),
  around:
    (call, { A, B, rho, omega }, c, site) =>
    (x, ctx) => {
      const draw = (name: string, shape: readonly number[]): Tensor | null =>
        rho === undefined ? null : ctx.draw.normal(`${site.field}.${name}`, shape);
      const [z, chi, tilt] = [draw('z', [c.samples, ...A.shape]), draw('chi', [c.rank, c.rank]), draw('tilt', [c.samples])];
      const change = (a: Tensor): Tensor => call(x, ctx).add(dropped(x, c, site, ctx).matmul(a.T).matmul(B.T).mul(scaling(c)));
      if (z === null || chi === null || tilt === null) return change(A);
      const { noise, variance, shares } = mixture({ rho, omega }, z, chi, tilt);
      const penalty = gaussians(variance, c).mul(c.klWeight);
      ctx.aux(`${site.path} ${site.field}`, (c.entropy ? penalty.add(square(shares).sum()) : penalty).mul(1 / site.of));
      return change(A.add(noise.mul(c.sampleScale)));
    },
  fold: update.fold,
  hooks: ({ rho, omega }, c, site) => {
    if (rho === undefined) return {}; // finished
    const penalty = (): Tensor =>
      dirichlet(exp(omega), c)
        .add(wishart(rho, c.rank))
        .mul(c.klWeight / site.of);
    return { penalty };
  },
  finish: ({ A, B }) => ({ A, B }),
  count: (sites, c) => {
    const { train } = update.count(sites, c);
    return { train: train + sites.length * (c.rank + c.samples), stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
