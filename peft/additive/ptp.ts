// PTP: prompt tuning whose loss is also taken at perturbed texts, so that it does not change steeply from one text to the next.
//   L(x) + α L(x + δ),  x the embedded text;   δ ~ N(0, σ²), or δ near argmax_{‖δ‖ ≤ ε} L(x + δ) by K steps δ ← Π_ε(δ + η ∇L/‖∇L‖)
// Chen et al. 2023, arXiv 2305.02423, §4. What is trained is prompt tuning (or another soft prompt); `ptpLoss` is what differs.
import { grad } from '../../core/grad.ts';
import { div, max, min, sqrt, square, stopGradient } from '../../core/ops/map.ts';
import { sum } from '../../core/ops/reduce.ts';
import type { Tensor } from '../../core/tensor.ts';
import { quiet } from '../../nn/context.ts';
import { BASE, layer, type Model } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import type { Loss } from '../../optim/program.ts';
import { between, wholeNumber } from '../check.ts';
import { hybrid } from '../combine.ts';
import type { Options, Transform } from '../method.ts';
import { type PromptTuningConfig, promptTuning } from './promptTuning.ts';

/** Prompt tuning, to be trained with `ptpLoss`. Count: p·d. */
export const ptp = (options: Options<PromptTuningConfig> = {}): Transform => hybrid('ptp', promptTuning(options));

export type Perturbation =
  | { readonly kind: 'noise'; readonly sigma: number } // PTP-RN
  | { readonly kind: 'adversarial'; readonly radius: number; readonly rate: number; readonly steps: number }; // PTP-ADV: ε, η, K

/** The model with its embedded text x, under all prompts, changed. */
const perturbed = (model: Model, change: (x: Tensor, normal: Tensor | null) => Tensor): Model =>
  substitute(model, 'trunk', (l) =>
    layer(
      'trunk',
      { [BASE]: l },
      ({ [BASE]: l }) =>
        (x, ctx) =>
          l(change(x, ctx.draw.normal('ptp', x.shape)), ctx),
    ),
  );
/** ‖·‖ of each text. [B, T, d] → [B, 1, 1] */
const length = (x: Tensor): Tensor => sqrt(max(sum(square(x), [1, 2], true), 1e-30));

/**
 * A training loss with the regulariser; evaluated (a quiet context), it is the loss itself. δ is a constant for the gradient, ‖·‖ that of
 * a whole text, and the search starts at 0. The paper's σ, ε, η, K and α could not be verified, nor whether its search starts at 0, so
 * that none has a default. Its perturbation of the text itself (some words masked at random) is a change of batches and left out.
 */
export function ptpLoss<B>(loss: Loss<Model, B>, weight: number, how: Perturbation): Loss<Model, B> {
  between('ptpLoss', 'weight', weight, 0, Number.MAX_VALUE);
  if (how.kind === 'noise') between('ptpLoss', 'sigma', how.sigma, 0, Number.MAX_VALUE);
  else {
    for (const name of ['radius', 'rate'] as const) between('ptpLoss', name, how[name], 0, Number.MAX_VALUE);
    wholeNumber('ptpLoss', 'steps', how.steps);
  }
  return (model, batch, ctx) => {
    const clean = loss(model, batch, ctx);
    if (ctx.draw === quiet) return clean;
    const silent = { ...ctx, aux: () => {} }; // losses of activations count once, those of the clean text
    if (how.kind === 'noise') {
      const noisy = perturbed(model, (x, normal) => (normal === null ? x : x.add(normal.mul(how.sigma))));
      return clean.add(loss(noisy, batch, silent).mul(weight));
    }
    const at = (delta: Tensor | null): { value: Tensor; x: Tensor } => {
      const seen: Tensor[] = [];
      const value = loss(
        perturbed(model, (x) => {
          seen.push(delta === null ? x : x.add(delta));
          return seen.at(-1)!;
        }),
        batch,
        silent,
      );
      return { value, x: seen[0]! };
    };
    let delta: Tensor | null = null;
    for (let k = 0; k < how.steps; k++) {
      const { value, x } = at(delta);
      const g = grad(value, [x])[0]!;
      const step: Tensor = g.mul(how.rate).div(length(g));
      const moved: Tensor = delta === null ? step : delta.add(step);
      delta = stopGradient(moved.mul(min(div(how.radius, length(moved)), 1)));
    }
    return clean.add(at(delta).value.mul(weight));
  };
}
