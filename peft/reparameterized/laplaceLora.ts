// Laplace-LoRA: after training, a Gaussian over the LoRA factors whose precision is the curvature of the loss, and predictions that know it.
//   for each factor M [out, in] with inputs a and answers' gradients g:  P = (Σ g gᵀ) ⊗ (Σ a aᵀ)/n + λI,  sums over n tokens of all texts and,
//   for g, over the classes that the model itself expects (the exact Fisher);   M ~ N(M_MAP, P⁻¹), factors independent, λ the prior's precision
//   logits(x) ~ N(f_MAP(x), J P⁻¹ Jᵀ), J = ∂f/∂M: the linearised model;   p(class) = mean of softmax over samples of the logits
//   log p(D | λ) = log p(D | M_MAP) − λ‖M_MAP‖²/2 + (d log λ − log det P)/2
// Yang et al. 2024 (ICLR), arXiv 2308.13111, §4, and the authors' code. Their factors of large layers are cut to rank 10; here all are whole.
import type { Engine } from '../../core/engine.ts';
import type { Batch, Model } from '../../nn/layer.ts';
import { curvatures, type Logits } from './laplaceCurvature.ts';
import { type Prediction, predicted } from './laplacePredict.ts';

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
    predict: (batch, { prior = bestPrior(), samples = 1000, seed = 0 } = {}) =>
      predicted({ model, engine, logits, curvature }, batch, prior, samples, seed),
  };
}
