// Prompt ensembling: several prompts of one task vote on an example, all in one batch.
//   row e·N + i = example e with prompt i;   class = the one most prompts prefer, of equals the one with the higher mean probability
// Lester et al. 2021, arXiv 2104.08691, §6.
import { softmax } from '../../core/ops/fused.ts';
import { iota, oneHot } from '../../core/ops/index.ts';
import { broadcastTo, reshape } from '../../core/ops/move.ts';
import { argmax } from '../../core/ops/reduce.ts';
import type { Tensor } from '../../core/tensor.ts';
import { type Layer, layer, type Model } from '../../nn/layer.ts';
import { mixed } from '../mixed.ts';

/** Every row n times in a row: [E, …] → [E·n, …]. */
export function replicated(x: Tensor, n: number): Tensor {
  const [e, ...rest] = x.shape as readonly [number, ...number[]];
  return reshape(broadcastTo(reshape(x, [e, 1, ...rest]), [e, n, ...rest]), [e * n, ...rest]);
}

/**
 * Votes on each class: logits [E·n, …, C] of n prompts per example → [E, …, C]. The largest is the majority's; half the mean
 * probability, which is less than a vote, decides between classes with equally many.
 */
export function votes(logits: Tensor, n: number): Tensor {
  const [rows, ...rest] = logits.shape as readonly [number, ...number[]];
  const each = [rows / n, n, ...rest];
  const preferred = reshape(oneHot(argmax(logits), rest.at(-1)!), each).sum([1]);
  return preferred.add(reshape(softmax(logits), each).mean([1]).mul(0.5));
}

/** The same for answers that are texts: the one given most often, of equals the one with the higher mean probability. */
export function majority(answers: readonly string[], probabilities: readonly number[]): string {
  if (answers.length === 0 || answers.length !== probabilities.length)
    throw new RangeError(`majority: ${answers.length} answers need one probability each, got ${probabilities.length}`);
  const score = (a: string): number => {
    const given = answers.flatMap((o, i) => (o === a ? [probabilities[i]!] : []));
    return given.length + given.reduce((s, p) => s + p, 0) / given.length / 2;
  };
  return answers.reduce((best, a) => (score(a) > score(best) ? a : best));
}

/**
 * A model that answers the votes of models with different prompts over one network: [E, C] from classifiers, [E, T, C] from taggers. Its
 * argmax is the vote, so `accuracy` works on it. The network runs once, on a batch N times as large.
 */
export function promptEnsemble(models: readonly Model[]): Model {
  const n = models.length;
  const members = mixed(models, (rows) => reshape(broadcastTo(iota(n), [rows / n, n]), [rows]));
  return layer('model', { members }, (f: { readonly members: Layer<'model'> }) => (batch, ctx) => {
    const all = (x: Tensor | null | undefined): Tensor | null => (x == null ? null : replicated(x, n));
    const positions = ctx.positions.shape.length === 1 ? ctx.positions : replicated(ctx.positions, n);
    const c = { ...ctx, positions, keyMask: all(ctx.keyMask), only: all(ctx.only) };
    return votes(f.members({ ids: replicated(batch.ids, n), keyMask: all(batch.keyMask), types: all(batch.types) }, c), n);
  });
}
