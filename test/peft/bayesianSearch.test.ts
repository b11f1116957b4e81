// Bayesian optimisation from its parts: hypervolumes against counting, processes against direct solves, draws against their densities.
import fc from 'fast-check';
import { determinant, inverse, Matrix } from 'ml-matrix';
import { describe, expect, it } from 'vitest';
import { normalCdf, normalQuantile } from '../../core/normal.ts';
import { type Rng, rng } from '../../core/rng.ts';
import { bayesianSearch, noisyImprovement, normalScores } from '../../peft/bayesianSearch.ts';
import { interpolation, type Kernel, type Points, posterior } from '../../peft/gaussianProcess.ts';
import { expectedImprovement, hypervolume, type Point, paretoFront } from '../../peft/pareto.ts';
import { logPrior, saasKernels, sliceSweep } from '../../peft/saas.ts';
import { randomSearch } from '../../peft/search.ts';
import { sevenDigits, sevenLoss } from './spaces.ts';

const mean = (v: readonly number[]): number => v.reduce((s, x) => s + x, 0) / v.length;
const points = (seed: number, n: number, d: number): number[][] => Array.from({ length: n }, (_, k) => [...rng(seed).split(k).uniform(d)]);

describe('hypervolume', () => {
  const cells = fc.array(fc.record({ loss: fc.integer({ min: 0, max: 9 }), size: fc.integer({ min: 0, max: 9 }) }), { maxLength: 8 });
  const reference = { loss: 8, size: 7 };
  /** Unit cells below the reference that some point dominates. */
  const counted = (all: readonly Point[]): number => {
    let n = 0;
    for (let size = 0; size < reference.size; size++)
      for (let loss = 0; loss < reference.loss; loss++) if (all.some((p) => p.size <= size && p.loss <= loss)) n++;
    return n;
  };
  it('is the number of dominated cells, and an improvement is what a point adds', () => {
    fc.assert(
      fc.property(cells, fc.integer({ min: 0, max: 9 }), fc.integer({ min: 0, max: 9 }), (all, loss, size) => {
        const front = paretoFront(all);
        expect(hypervolume(front, reference)).toBe(counted(all));
        expect(expectedImprovement(front, reference, { size, mean: loss, deviation: 0 })).toBe(
          counted([...all, { loss, size }]) - counted(all),
        );
      }),
    );
  });
  it('is expected to grow by the mean over losses', () => {
    const front = paretoFront([
      { loss: 3, size: 2 },
      { loss: 1, size: 5 },
    ]);
    for (const size of [0, 2, 3.5, 6]) {
      const losses = [...rng(size * 2).normal(40_000, 1.5, 2)];
      const drawn = mean(losses.map((loss) => expectedImprovement(front, reference, { size, mean: loss, deviation: 0 })));
      expect(expectedImprovement(front, reference, { size, mean: 2, deviation: 1.5 }) / drawn).toBeCloseTo(1, 1);
    }
  });
  it('knows the normal distribution', () => {
    // 97.5 % and 99.9 % quantiles, as in any table
    expect([normalCdf(0), normalCdf(1.959963984540054), normalCdf(-3.090232306167813)].map((p) => p.toFixed(12))).toEqual([
      '0.500000000000',
      '0.975000000000',
      '0.001000000000',
    ]);
    for (const p of [1e-4, 0.2, 0.5, 0.9999]) expect(normalCdf(normalQuantile(p))).toBeCloseTo(p, 12);
  });
});

describe('gaussian process', () => {
  const kernel: Kernel = { scale: 1.7, inverse: [2, 0.3], mean: 0.4, noise: 0.05 };
  const k = (x: readonly number[], z: readonly number[]): number => {
    const d = Math.hypot(...kernel.inverse.map((rho, i) => Math.sqrt(rho) * (x[i]! - z[i]!)));
    return kernel.scale * (1 + Math.sqrt(5) * d + (5 / 3) * d * d) * Math.exp(-Math.sqrt(5) * d);
  };
  const [xs, zs] = [points(1, 7, 2), points(2, 3, 2)];
  const y = [...rng(3).normal(7)];
  const cross = (a: Points, b: Points): Matrix => new Matrix(a.map((x) => b.map((z) => k(x, z))));
  it('agrees with inverse and determinant', () => {
    const whole = cross(xs, xs).add(Matrix.eye(7).mul(kernel.noise + 1e-6 * kernel.scale));
    const away = Matrix.columnVector(y.map((v) => v - kernel.mean));
    const solved = inverse(whole).mmul(away);
    const found = posterior(kernel, xs, y);
    const expected = -0.5 * (away.transpose().mmul(solved).get(0, 0) + Math.log(determinant(whole)) + 7 * Math.log(2 * Math.PI));
    expect(found.logLikelihood).toBeCloseTo(expected, 9);
    const at = found.at(zs);
    const means = cross(zs, xs).mmul(solved);
    const covariance = cross(zs, zs).sub(cross(zs, xs).mmul(inverse(whole)).mmul(cross(xs, zs)));
    for (let i = 0; i < 3; i++) {
      expect(at.mean[i]).toBeCloseTo(means.get(i, 0) + kernel.mean, 9);
      for (let j = 0; j < 3; j++) expect(at.covariance[i * 3 + j]).toBeCloseTo(covariance.get(i, j), 9);
    }
  });
  it('without noise is its interpolation', () => {
    const smooth = xs.map(([a, b]) => Math.sin(a! + b!)); // the jitter would show on values that no such kernel has
    const exact = posterior({ ...kernel, noise: 0 }, xs, smooth);
    const between = interpolation(kernel, xs);
    for (const z of [...zs, xs[2]!]) {
      const { mean: m, covariance } = exact.at([z]);
      const { weights, variance } = between(z);
      expect(weights.reduce((s, w, i) => s + w * (smooth[i]! - kernel.mean), kernel.mean)).toBeCloseTo(m[0]!, 9);
      expect(variance).toBeCloseTo(covariance[0]!, 9);
    }
  });
});

describe('kernels under the SAAS prior', () => {
  it('slices draw from the density', () => {
    const r = rng(1);
    let x: readonly number[] = [0, 0];
    const drawn = Array.from({ length: 4000 }, () => {
      x = sliceSweep(([a, b]) => -(((a! - 1) / 2) ** 2) / 2 - (b! - a!) ** 2 / 2, x, r);
      return x;
    });
    const [a, b] = [0, 1].map((i) => drawn.map((v) => v[i]!)) as [number[], number[]];
    expect(mean(a)).toBeCloseTo(1, 0);
    expect(mean(a.map((v) => (v - 1) ** 2)) / 4).toBeCloseTo(1, 0);
    expect(mean(b.map((v, i) => (v - a[i]!) ** 2))).toBeCloseTo(1, 1);
  });
  it('the prior has the medians of half-Cauchy distributions and the means of gamma ones', () => {
    const r = rng(2);
    let x: readonly number[] = [0, 0, 0, 0, 0];
    const drawn = Array.from({ length: 4000 }, () => {
      x = sliceSweep(logPrior, x, r);
      return x.map((v, i) => (i === 1 ? v : Math.exp(v)));
    });
    const median = (i: number): number => drawn.map((v) => v[i]!).sort((a, b) => a - b)[2000]!;
    expect(mean(drawn.map((v) => v[0]!)) / (2 / 0.15)).toBeCloseTo(1, 1);
    expect(mean(drawn.map((v) => v[2]!)) / (0.9 / 10)).toBeCloseTo(1, 1);
    expect(Math.abs(median(3) / 0.1 - 1)).toBeLessThan(0.15);
    expect(Math.abs(median(4) - 1)).toBeLessThan(0.15);
  });
  it('find the coordinate that matters', () => {
    const xs = points(4, 16, 5);
    const y = xs.map((x) => Math.sin(5 * x[3]!));
    const kernels = saasKernels(xs, y, rng(5), { warmup: 12, samples: 8, thinning: 1 });
    const of = (i: number): number => mean(kernels.map((kernel) => Math.log(kernel.inverse[i]!)));
    for (const i of [0, 1, 2, 4]) expect(of(3)).toBeGreaterThan(of(i) + 2);
  });
});

describe('search', () => {
  it('scores by ranks, linear between values, ends held', () => {
    const score = normalScores([1, 3, 3, 7]);
    expect([1, 2, 3, 5].map((v) => normalCdf(score(v)))).toEqual([0.25, 0.5, 0.75, 0.875].map((p) => expect.closeTo(p, 9)));
    expect([0, 7, 9].map((v) => normalCdf(score(v)))).toEqual([0.0001, 0.9999, 0.9999].map((p) => expect.closeTo(p, 9)));
  });
  it('values a point where the front is weak above one that it covers', () => {
    const xs = [[0], [0.3], [0.7], [1]];
    const seen = xs.map(([x]) => ({ loss: 1 - 2 * x!, size: x! }));
    const value = noisyImprovement(xs, seen, { loss: 2, size: 2 }, rng(1), { warmup: 8, samples: 4, draws: 4 });
    expect(value([0.5], 0.5)).toBeGreaterThan(value([0.5], 1.9)); // the same thing, but larger
    expect(value([0.5], 0.5)).toBeGreaterThan(value([0], 0.5)); // known to be bad, and larger than it is
  });

  it('never evaluates twice or above the limit, and follows its seed', async () => {
    const o = { evaluations: 13, first: 10, limit: 150, warmup: 6, samples: 3, thinning: 1, draws: 2, looks: 120, restarts: 4 };
    const found = await bayesianSearch(sevenDigits, sevenLoss, o);
    expect(new Set(found.map((t) => sevenDigits.key(t.config))).size).toBe(13);
    expect(Math.max(...found.map((t) => t.size))).toBeLessThanOrEqual(150);
    expect(await bayesianSearch(sevenDigits, sevenLoss, o)).toEqual(found);
    const few = {
      draw: (r: Rng) => r.below(3),
      mutate: (_: number, r: Rng) => r.below(3),
      size: (c: number) => c,
      key: String,
      encode: (c: number) => [c / 2],
    };
    const all = await bayesianSearch(few, async (c) => -c, { ...o, evaluations: 9, first: 2 });
    expect(all.map((t) => t.config).sort()).toEqual([0, 1, 2]); // and ends when the space is exhausted
    expect(found.slice(0, 10)).toEqual(await randomSearch(sevenDigits, sevenLoss, { ...o, evaluations: 10 })); // it begins with the same draws
  });
});
