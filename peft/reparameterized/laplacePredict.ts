// Laplace-LoRA's predictions (laplaceLora.ts): the Gaussian over logits that the posterior makes of a linearised model, and the probabilities it stands for.
//   logits(x) ~ N(f_MAP(x), J P⁻¹ Jᵀ), J = ∂f/∂M;   p(class) = mean of softmax over samples of the logits
// Yang et al. 2024 (ICLR), arXiv 2308.13111, §4.
import type { Engine } from '../../core/engine.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Batch, Model } from '../../nn/layer.ts';
import { cholesky, product } from '../linalg.ts';
import { type Curvature, type Logits, numbers, watched } from './laplaceCurvature.ts';

export interface Prediction {
  readonly logits: Float64Array; // of the trained model, [B, C]
  readonly covariance: readonly Float64Array[]; // of each row's logits, [C, C]
  readonly probabilities: Float64Array; // [B, C]
}
/** What a prediction needs of the trained model. */
interface Posterior<B extends Batch> {
  readonly model: Model;
  readonly engine: Engine;
  readonly logits: Logits<B>;
  readonly curvature: ReadonlyMap<string, Curvature>;
}

/** The prediction for each row of a batch. */
export async function predicted<B extends Batch>(
  { model, engine, logits, curvature }: Posterior<B>,
  batch: B,
  prior: number,
  samples: number,
  seed: number,
): Promise<Prediction> {
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
