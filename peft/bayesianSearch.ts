// Multi-objective Bayesian optimisation: evaluate next what is expected to add most to the area that the Pareto front dominates.
//   α(c) = mean over kernels θ and draws f ~ p(f(X) | y, θ) of  E[ HV(front(f) ∪ (size(c), Y)) − HV(front(f)) ],  Y = f(c) | f(X), θ
// Noisy expected hypervolume improvement (Daulton et al. 2021, arXiv 2105.08195) over fully Bayesian SAAS processes (saas.ts).

import { normalQuantile } from '../core/normal.ts';
import { type Rng, rng } from '../core/rng.ts';
import { interpolation, type Points, posterior } from './gaussianProcess.ts';
import { cholesky, product } from './linalg.ts';
import { expectedImprovement, type Point, paretoFront } from './pareto.ts';
import { type SaasOptions, saasKernels } from './saas.ts';
import { type SearchOptions, type Space, search, type Tried } from './search.ts';

export interface EncodedSpace<C> extends Space<C> {
  /** A point of [0, 1]^D. */
  readonly encode: (c: C) => readonly number[];
}
export interface BayesianOptions extends SearchOptions, SaasOptions {
  readonly first?: number; // random ones before: half of the evaluations (the authors: 100 of 200)
  readonly restarts?: number; // 10 starts of the local search, neighbours of the front's
  readonly looks?: number; // 2000 candidates that it looks at, all starts together
  readonly draws?: number; // 8 draws of f(X) for each kernel
  /** Worse than this in one aim is worth nothing: the worst tried so far. */
  readonly reference?: Point;
}

/** v ↦ Φ⁻¹ of the share of the values that are at most v, linear between them, held in [0.0001, 0.9999]: the authors' copula transform. */
export function normalScores(values: readonly number[]): (v: number) => number {
  const sorted = [...values].sort((a, b) => a - b);
  const share = (v: number): number => {
    const below = sorted.findLastIndex((s) => s <= v); // the last of equals
    if (below < 0) return 0;
    if (below === sorted.length - 1) return 1;
    const [from, to] = [sorted[below]!, sorted[below + 1]!];
    const next = sorted.lastIndexOf(to);
    return (below + 1 + ((next - below) * (v - from)) / (to - from)) / sorted.length;
  };
  return (v) => normalQuantile(Math.min(Math.max(share(v), 1e-4), 0.9999));
}

/** α over points x of known size, given losses at points xs. Sizes and losses are in units of about 1. */
export function noisyImprovement(
  xs: Points,
  seen: readonly Point[],
  reference: Point,
  r: Rng,
  { draws = 8, ...options }: SaasOptions & { readonly draws?: number } = {},
): (x: readonly number[], size: number) => number {
  const n = xs.length;
  const losses = seen.map((p) => p.loss);
  const worlds = saasKernels(xs, losses, r.split('kernels'), options).map((kernel, k) => {
    const { mean, covariance } = posterior(kernel, xs, losses).at(xs);
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < i; j++) covariance[i * n + j] = covariance[j * n + i]!; // equal but for rounding
      covariance[i * n + i]! += 1e-5 * kernel.scale;
    }
    const { lower } = cholesky(covariance, n);
    return {
      kernel,
      between: interpolation(kernel, xs),
      drawn: Array.from({ length: draws }, (_, d) => {
        const steps = product(lower, r.split(`draw ${k} ${d}`).normal(n), n, n, 1);
        const f = mean.map((m, i) => m + steps[i]!);
        return { front: paretoFront(seen.map((p, i) => ({ size: p.size, loss: f[i]! }))), away: f.map((v) => v - kernel.mean) };
      }),
    };
  });
  return (x, size) => {
    let sum = 0;
    for (const { kernel, between, drawn } of worlds) {
      const { weights, variance } = between(x);
      for (const { front, away } of drawn) {
        const mean = weights.reduce((s, w, i) => s + w * away[i]!, kernel.mean);
        sum += expectedImprovement(front, reference, { size, mean, deviation: Math.sqrt(variance) });
      }
    }
    return sum / (worlds.length * draws);
  };
}

/** The best of `looks` candidates, null where all are worth less than 0: from each start, as many random neighbours as coordinates at a time, moving on where one is worth more. */
function localSearch<C>(space: EncodedSpace<C>, starts: readonly C[], worth: (c: C) => number, looks: number, r: Rng): C | null {
  const ends = starts.map((start) => {
    let best = { config: start, value: worth(start) };
    const neighbours = space.encode(start).length;
    for (let left = Math.floor(looks / starts.length); left > 0; left -= neighbours) {
      const around = Array.from({ length: neighbours }, () => space.mutate(best.config, r)).map((config) => ({
        config,
        value: worth(config),
      }));
      best = around.reduce((a, b) => (b.value > a.value ? b : a), best);
    }
    return best;
  });
  const best = ends.reduce((a, b) => (b.value > a.value ? b : a));
  return best.value < 0 ? null : best.config;
}

/**
 * AutoPEFT's search (Zhou et al. 2024, arXiv 2301.12132, §3.3) for one evaluation at a time. Differences: the size is a count and known
 * for every candidate, so only the loss has a process, and the improvement over Y is in closed form; theirs models both, proposes four at
 * once, and integrates by sampling. Their reference is 26 % of the base and 0.7 accuracy.
 */
export const bayesianSearch = <C>(space: EncodedSpace<C>, loss: (c: C) => Promise<number>, o: BayesianOptions): Promise<Tried<C>[]> => {
  const { first = Math.ceil(o.evaluations / 2), restarts = 10, looks = 2000, limit = Number.POSITIVE_INFINITY } = o;
  return search(space, loss, o, (tried, r) => {
    const sound = tried.filter((t) => Number.isFinite(t.loss));
    if (tried.length < first || sound.length < 2) return space.draw(r);
    const own = rng(r.below(2 ** 31));
    const [lossScore, sizeScore] = [normalScores(sound.map((t) => t.loss)), normalScores(sound.map((t) => t.size))];
    const scored = (p: Point): Point => ({ loss: lossScore(p.loss), size: sizeScore(p.size) });
    const worst = { loss: Math.max(...sound.map((t) => t.loss)), size: Math.max(...sound.map((t) => t.size)) };
    const value = noisyImprovement(
      sound.map((t) => space.encode(t.config)),
      sound.map(scored),
      scored(o.reference ?? worst),
      own,
      o,
    );
    const seen = new Set(tried.map((t) => space.key(t.config)));
    const worth = (c: C): number => {
      const size = space.size(c);
      return size > limit || seen.has(space.key(c)) ? -1 : value(space.encode(c), sizeScore(size));
    };
    const front = paretoFront(sound);
    const starts = Array.from({ length: restarts }, () => space.mutate(front[own.below(front.length)]!.config, own));
    return localSearch(space, starts, worth, looks, own);
  });
};
