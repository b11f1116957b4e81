// Laplace-LoRA: after training, a Gaussian over the LoRA factors whose precision is the curvature of the loss, and predictions that know it.
//   for each factor M [out, in] with inputs a and answers' gradients g:  P = (Σ g gᵀ) ⊗ (Σ a aᵀ)/n + λI,  sums over n tokens of all texts and,
//   for g, over the classes that the model itself expects (the exact Fisher);   M ~ N(M_MAP, P⁻¹), factors independent, λ the prior's precision
//   logits(x) ~ N(f_MAP(x), J P⁻¹ Jᵀ), J = ∂f/∂M: the linearised model;   p(class) = mean of softmax over samples of the logits
//   log p(D | λ) = log p(D | M_MAP) − λ‖M_MAP‖²/2 + (d log λ − log det P)/2
// Yang et al. 2024 (ICLR), arXiv 2308.13111, §4, and the authors' code. Their factors of large layers are cut to rank 10; here all are whole.
// Longer than 100 lines: the posterior, its evidence and its predictions read the same curvature.
import type { Engine } from '../../core/engine.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Batch, Model } from '../../nn/layer.ts';
import { cholesky, product } from '../linalg.ts';
import { curvatures, type Logits, numbers, watched } from './laplaceCurvature.ts';

export interface Prediction {
  readonly logits: Float64Array; // of the trained model, [B, C]
  readonly covariance: readonly Float64Array[]; // of each row's logits, [C, C]
  readonly probabilities: Float64Array; // [B, C]
}
export interface Laplace<B extends Batch> {
  /** log p(D | λ) without log p(D | M_MAP), which λ does not change. */
  evidence(prior: number): number;
  /** The λ that makes the data most likely: λ = γ/‖M‖², γ = Σ v/(v + λ) over the curvature's values v, repeated until it stays. */
  bestPrior(start?: number): number;
  predict(batch: B, options?: { readonly prior?: number; readonly samples?: number; readonly seed?: number }): Promise<Prediction>;
}

/**
 * The posterior of a trained LoRA on labelled or unlabelled batches of its training data (labels are not read). Rows of a batch must not
 * influence each other. Costs a backward pass for each class and batch; a prediction costs one for each row and class.
 */
export async function laplaceLora<B extends Batch>(
  model: Model,
  { engine, batches, logits }: { readonly engine: Engine; readonly batches: readonly B[]; readonly logits: Logits<B> },
): Promise<Laplace<B>> {
  const curvature = await curvatures(model, { engine, batches, logits });
  let norm = 0;
  for (const { weight } of curvature.values()) for (const v of await engine.read(weight)) norm += v * v;
  const every = [...curvature.values()].flatMap(({ values }) => [...values]);
  const bestPrior = (start = 1): number => {
    let prior = start;
    for (let k = 0; k < 1000; k++) {
      const next = every.reduce((n, v) => n + v / (v + prior), 0) / norm;
      if (Math.abs(next - prior) <= 1e-12 * prior) return next;
      prior = next;
    }
    return prior;
  };
  return {
    evidence: (prior) => (every.length * Math.log(prior) - every.reduce((n, v) => n + Math.log(v + prior), 0) - prior * norm) / 2,
    bestPrior,
    predict: async (batch, { prior = bestPrior(), samples = 1000, seed = 0 } = {}) => {
      if (!(prior > 0)) throw new RangeError(`laplaceLora: prior ${prior} must be positive`);
      const { out, uses } = watched(model, batch, logits);
      const [b, classes] = out.shape as [number, number];
      const outputs: Record<string, Tensor> = { f: out };
      for (let n = 0; n < b; n++)
        for (let c = 0; c < classes; c++)
          for (const [k, j] of grad(
            out
              .slice(0, n, n + 1)
              .slice(1, c, c + 1)
              .sum(),
            uses.map((u) => u.weight),
          ).entries())
            outputs[`${n} ${c} ${k}`] = j;
      const got = await numbers(engine, outputs);
      const covariance = Array.from({ length: b }, (_, n) => {
        const sum = new Float64Array(classes * classes);
        for (const [k, { name }] of uses.entries()) {
          const {
            shape: [o, i],
            left,
            right,
            values,
          } = curvature.get(name)!;
          const turned = Array.from({ length: classes }, (_, c) => product(product(left, got[`${n} ${c} ${k}`]!, o, o, i), right, o, i, i));
          for (let c = 0; c < classes; c++)
            for (let e = 0; e < classes; e++)
              sum[c * classes + e]! += values.reduce((s, v, m) => s + (turned[c]![m]! * turned[e]![m]!) / (v + prior), 0);
        }
        return sum;
      });
      const f = Float64Array.from(got.f!);
      return { logits: f, covariance, probabilities: sampled(f, covariance, classes, samples, seed) };
    },
  };
}

/** The mean of softmax over samples of N(f, covariance), row by row. */
function sampled(f: Float64Array, covariance: readonly Float64Array[], classes: number, samples: number, seed: number): Float64Array {
  const p = new Float64Array(f.length);
  for (const [n, c] of covariance.entries()) {
    const jitter = 1e-10 * c.reduce((most, v) => Math.max(most, Math.abs(v)), 1e-10); // a covariance of full rank, up to rounding
    const { lower } = cholesky(
      c.map((v, k) => (k % (classes + 1) === 0 ? v + jitter : v)),
      classes,
    );
    const draws = rng(seed)
      .split(`row ${n}`)
      .normal(samples * classes);
    for (let s = 0; s < samples; s++) {
      const z = Array.from({ length: classes }, (_, o) => {
        let v = f[n * classes + o]!;
        for (let k = 0; k <= o; k++) v += lower[o * classes + k]! * draws[s * classes + k]!;
        return v;
      });
      const top = Math.max(...z);
      const e = z.map((v) => Math.exp(v - top));
      const total = e.reduce((x, y) => x + y, 0);
      for (let o = 0; o < classes; o++) p[n * classes + o]! += e[o]! / total / samples;
    }
  }
  return p;
}
