// PVeRA: VeRA whose middle is drawn at random in training: its random matrix gives a mean and a variance.
//   (μ, log σ²) = split(λ_d ⊙ A drop(x)),   z = μ + σ ε in training, μ otherwise,   y = W x + b + λ_b ⊙ B z
//   A ∈ ℝ^{2r×in} and B ∈ ℝ^{out×r} frozen and cut to size from the largest layer's, ε ~ N(0, 1)
// arXiv 2512.07703, as built in PEFT. λ_b starts at 0 and λ_d at 0.1. Merging takes the mean.
import { exp } from '../../core/ops/map.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { dropoutFits, wholeNumber } from '../check.ts';
import { dropped } from './lora.ts';
import { cut, largest, shared, type Vera, type VeraConfig } from './vera.ts';

/** Count: 2r + out for each layer; stored besides, once: A and B. */
export const pvera = defineMethod<'linear', VeraConfig, Vera, Pick<Vera, 'A' | 'B'>>({
  name: 'pvera',
  family: 'reparameterized',
  paper: 'arXiv:2512.07703',
  at: 'linear',
  defaults: { rank: 256, dInitial: 0.1, dropout: 0, where: ['q', 'v'] },
  check: (_, { rank, dropout }) => {
    wholeNumber('pvera', 'rank', rank);
    dropoutFits('pvera', dropout);
  },
  shared: (sites, { rank }, r) => shared(sites, rank, r, 2 * rank),
  init: ({ shape: [out] }, { rank, dInitial }, _, given) => ({
    train: {
      lambdaB: param(new Float32Array(out!), [out!]),
      lambdaD: param(new Float32Array(2 * rank).fill(dInitial), [2 * rank]),
    },
    fixed: given.shared,
  }),
  around: (call, p, c, site) => {
    const { a, b } = cut(p, site.shape);
    return (x, ctx) => {
      const inner = dropped(x, c, site, ctx).matmul(a.T).mul(p.lambdaD); // [.., 2r]
      const mean = inner.slice(-1, 0, c.rank);
      const noise = ctx.draw.normal(`${site.field}.noise`, mean.shape);
      const z: Tensor = noise === null ? mean : mean.add(noise.mul(exp(inner.slice(-1, c.rank).mul(0.5))));
      return call(x, ctx).add(z.matmul(b.T).mul(p.lambdaB));
    };
  },
  fold: ({ weight, bias }, p, { rank }) => {
    const { a, b } = cut(p, weight.shape);
    const mean = a.slice(0, 0, rank);
    return {
      weight: weight.add(
        b
          .mul(p.lambdaD.slice(0, 0, rank))
          .matmul(mean)
          .mul(p.lambdaB.reshape(-1, 1)),
      ),
      bias,
    };
  },
  count: (sites, { rank }) => {
    const train = sites.reduce((n, { shape: [out] }) => n + 2 * rank + out!, 0);
    const { out, into } = largest(sites);
    return { train, stored: train + rank * (out + 2 * into) }; // A and B once, for all sites
  },
  startsAsBase: () => 'close', // adds an exact zero
});
