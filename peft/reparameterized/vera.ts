// VeRA: random matrices, frozen and the same for all layers, with two trained vectors at each layer.
//   y = W x + b + λ_b ⊙ (B (λ_d ⊙ (A drop(x)))),   A ∈ ℝ^{r×in}, B ∈ ℝ^{out×r} cut to size from the largest layer's
// Kopiczko et al. 2024, arXiv 2310.11454, §3. λ_b starts at 0 and λ_d at 0.1; there is no α.
import type { Rng } from '../../core/rng.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { dropoutFits, wholeNumber } from '../check.ts';
import type { Site } from '../site.ts';
import { dropped } from './lora.ts';

export interface VeraConfig {
  readonly rank: number; // may exceed the layers' width
  readonly dInitial: number; // start of λ_d
  readonly dropout: number; // on x, on this branch only
}
export type Vera = { A: Tensor; B: Tensor; lambdaB: Tensor; lambdaD: Tensor };

/** The largest input and output of the sites: the size of the shared matrices. */
export const largest = (sites: readonly Site<'linear'>[]): { out: number; into: number } => ({
  out: Math.max(...sites.map((s) => s.shape[0]!)),
  into: Math.max(...sites.map((s) => s.shape[1]!)),
});
/** The first `in` columns of A and the first `out` rows of B. */
export const cut = ({ A, B }: Vera, [out, into]: readonly number[]): { a: Tensor; b: Tensor } => ({
  a: A.slice(1, 0, into),
  b: B.slice(0, 0, out),
});

/** A (of `rows` rows) and B once for all layers, Kaiming uniform with gain √2: √6/√fan_in. */
export function shared(sites: readonly Site<'linear'>[], rank: number, r: Rng, rows = rank): Pick<Vera, 'A' | 'B'> {
  const { out, into } = largest(sites);
  const [a, b] = [Math.sqrt(6 / into), Math.sqrt(6 / rank)];
  return {
    A: leaf(r.split('A').uniform(rows * into, -a, a), [rows, into]),
    B: leaf(r.split('B').uniform(out * rank, -b, b), [out, rank]),
  };
}

export const vera = defineMethod<'linear', VeraConfig, Vera, Pick<Vera, 'A' | 'B'>>({
  name: 'vera',
  family: 'reparameterized',
  paper: 'arXiv:2310.11454',
  at: 'linear',
  defaults: { rank: 256, dInitial: 0.1, dropout: 0, where: ['q', 'v'] },
  check: (_, { rank, dropout }) => {
    wholeNumber('vera', 'rank', rank);
    dropoutFits('vera', dropout);
  },
  shared: (sites, { rank }, r) => shared(sites, rank, r),
  init: ({ shape: [out] }, { rank, dInitial }, _, { shared }) => ({
    train: {
      lambdaB: param(new Float32Array(out!), [out!]),
      lambdaD: param(new Float32Array(rank).fill(dInitial), [rank]),
    },
    fixed: shared,
  }),
  around: (call, p, c, site) => {
    const { a, b } = cut(p, site.shape);
    return (x, ctx) => call(x, ctx).add(dropped(x, c, site, ctx).matmul(a.T).mul(p.lambdaD).matmul(b.T).mul(p.lambdaB));
  },
  fold: ({ weight, bias }, p) => {
    const { a, b } = cut(p, weight.shape);
    return { weight: weight.add(b.mul(p.lambdaD).matmul(a).mul(p.lambdaB.reshape(-1, 1))), bias };
  },
  count: (sites, { rank }) => {
    const train = sites.reduce((n, { shape: [out] }) => n + rank + out!, 0);
    const { out, into } = largest(sites);
    return { train, stored: train + rank * (out + into) }; // A and B once, for all sites
  },
  startsAsBase: () => 'close', // adds an exact zero
});
