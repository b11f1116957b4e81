// FISH mask: the entries with the largest Fisher information are trained, no others.
//   F_i = Σ_n (∂ log p(y_n|x_n)/∂θ_i)²           with the true labels ("label", the empirical Fisher)
//   F_i = Σ_n Σ_y p(y|x_n) (∂ log p(y|x_n)/∂θ_i)²   over all classes ("expectation"), one backward pass for each
// Sung et al. 2021, arXiv 2111.09839, §3. Gradients are squared example by example: the square of a batch's gradient is another score.
import { logSoftmax } from '../../core/ops/fused.ts';
import { add, exp, mul, square, stopGradient } from '../../core/ops/map.ts';
import { show } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import { dataOf, examples, type Score, scoreSums } from '../sensitivity.ts';
import { budget, type Chosen, type ChosenConfig, choose, type Sparse, sparse } from './sparse.ts';

export interface FishConfig extends ChosenConfig {
  readonly fisher: 'label' | 'expectation';
  readonly samples: number; // examples, at most
}

/** Σ_y p(y|x)(∂ log p(y|x)/∂θ)² for one example of a classifier. */
const expectation: Score = (model, batch, gradients) => {
  const logits = model(batch, context(batch.ids.shape.at(-1)!));
  if (logits.shape.length !== 2)
    throw new Error(
      `fishMask: the expectation is over the classes of a classifier, and this model answers ${show(logits.shape)}; use fisher: 'label'`,
    );
  const logp = logSoftmax(logits); // [1, C]
  const each = Array.from({ length: logits.shape[1]! }, (_, y) => {
    const one = logp.slice(1, y, y + 1).reshape();
    const p = stopGradient(exp(one));
    return gradients(one).map((g) => mul(square(g), p));
  });
  return each.reduce((sums, terms) => sums.map((s, k) => add(s, terms[k]!)));
};

/**
 * By default half a percent of all weights of the blocks, 1024 examples with their labels. The authors keep the classifier out of the
 * mask and in the budget: train it besides (`unfreeze`) and give its size as `reserved`. Count: ⌊ρN⌋ − reserved.
 */
export const fishMask = defineMethod<'weight', FishConfig, Sparse, null, Chosen>({
  name: 'fishMask',
  family: 'selective',
  paper: 'arXiv:2111.09839',
  at: 'weight',
  defaults: { density: 0.005, reserved: 0, fisher: 'label', samples: 1024, where: /\bblocks\./ },
  takes: { fisher: ['label', 'expectation'] },
  ...sparse('fishMask'),
  check: (site, c) => {
    sparse('fishMask').check(site, c);
    wholeNumber('fishMask', 'samples', c.samples);
  },
  prepare: async (sites, c, env) => {
    const k = budget('fishMask', sites, c);
    const { batches, loss } = dataOf('fishMask', env);
    const label: Score = (model, batch, gradients) => gradients(loss(model, batch)).map(square) as Tensor[];
    const scores = await scoreSums('fishMask', sites, env, examples(batches, c.samples), c.fisher === 'label' ? label : expectation);
    return choose(sites, scores, k);
  },
});
