// A prior for the kernel of a Gaussian process under which few coordinates matter, and draws of kernels from what values tell.
//   a ~ Gamma(2, 0.15),  m ~ N(0, 1),  σ² ~ Gamma(0.9, 10),  τ² ~ HalfCauchy(0.1),  ρ_i = τ²·λ_i,  λ_i ~ HalfCauchy(1)
// Eriksson & Jankowiak 2021, arXiv 2103.00349, with BoTorch's priors for a, m and σ². They sample with NUTS; here slice sampling, which needs no gradient.
import type { Rng } from '../core/rng.ts';
import { type Kernel, type Points, posterior } from './gaussianProcess.ts';

/** Neal 2003, §4: one sweep over the coordinates of x, each drawn anew from its slice of the density; `width` is the first guess at it. */
export function sliceSweep(logDensity: (x: readonly number[]) => number, x: readonly number[], r: Rng, width = 2): readonly number[] {
  return x.reduce<readonly number[]>((now, value, i) => {
    const at = (v: number): number => logDensity(now.with(i, v));
    const level = at(value) + Math.log(1 - r.next());
    let low = value - width * r.next();
    let high = low + width;
    while (at(low) > level) low -= width;
    while (at(high) > level) high += width;
    for (;;) {
      const v = low + (high - low) * r.next();
      if (at(v) >= level) return now.with(i, v);
      if (v < value) low = v;
      else high = v;
    }
  }, x);
}

/** BoTorch's floor under σ². */
const LEAST_NOISE = 1e-4;
/** Logarithms, but for the mean: [a, m, σ², τ², λ…]. */
const kernelOf = ([a, m, noise, tau, ...lambda]: readonly number[]): Kernel => ({
  scale: Math.exp(a!),
  mean: m!,
  noise: LEAST_NOISE + Math.exp(noise!),
  inverse: lambda.map((l) => Math.exp(tau! + l)),
});
/** Of those coordinates: each density with the factor x that the logarithm brings, up to a constant. */
export function logPrior([a, m, noise, tau, ...lambda]: readonly number[]): number {
  const gamma = (log: number, shape: number, rate: number): number => shape * log - rate * Math.exp(log);
  const halfCauchy = (log: number, scale: number): number => log - Math.log1p((Math.exp(log) / scale) ** 2);
  return (
    gamma(a!, 2, 0.15) - m! ** 2 / 2 + gamma(noise!, 0.9, 10) + halfCauchy(tau!, 0.1) + lambda.reduce((s, l) => s + halfCauchy(l, 1), 0)
  );
}

export interface SaasOptions {
  readonly warmup?: number; // 32 sweeps thrown away
  readonly samples?: number; // 16 kept (the authors: 64 of NUTS, every fourth)
  readonly thinning?: number; // 2: sweeps for each kept one
}
/** Kernels drawn from prior × likelihood of values y at points of [0, 1]^D. Values should have mean 0 and deviation 1. */
export function saasKernels(
  xs: Points,
  y: readonly number[],
  r: Rng,
  { warmup = 32, samples = 16, thinning = 2 }: SaasOptions = {},
): Kernel[] {
  const logDensity = (x: readonly number[]): number => {
    const prior = logPrior(x);
    return prior < -1e4 ? Number.NEGATIVE_INFINITY : prior + posterior(kernelOf(x), xs, y).logLikelihood;
  };
  let x: readonly number[] = [0, 0, Math.log(0.01), Math.log(0.1), ...xs[0]!.map(() => 0)];
  for (let k = 0; k < warmup; k++) x = sliceSweep(logDensity, x, r);
  return Array.from({ length: samples }, () => {
    for (let k = 0; k < thinning; k++) x = sliceSweep(logDensity, x, r);
    return kernelOf(x);
  });
}
