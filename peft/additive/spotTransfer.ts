// SPoT's transfer: the prompts of the source tasks most like the target's are where the target's training starts.
//   e(task) = mean of the prompt's rows, early in training;   start = prompt of the most similar task, or Σ w_i P_i over the best
// Vu et al. 2022, arXiv 2110.07904, §3.
import type { Numbers } from '../../core/plan.ts';
import { same, show } from '../../core/shape.ts';
import type { Param } from '../../core/tensor.ts';
import { withValues } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { promptOf, similarity, taskEmbedding } from './spot.ts';

/** The target with its prompt at Σ w_i P_i of the sources' prompts: with one source, its prompt. All prompts have one shape. */
export function transferred(target: Model, sources: readonly Model[], weights: readonly number[]): Model {
  if (sources.length === 0 || weights.length !== sources.length)
    throw new RangeError(`transferred: ${sources.length} source models need as many weights, got ${weights.length}`);
  const own = promptOf(target);
  const start = new Float32Array(own.value.length);
  for (const [i, source] of sources.entries()) {
    const { value, shape } = promptOf(source);
    if (!same(shape, own.shape))
      throw new RangeError(
        `transferred: the prompt of source ${i} is ${show(shape)}, the target's ${show(own.shape)}; train both with one length`,
      );
    for (const [k, v] of value.entries()) start[k]! += weights[i]! * v;
  }
  return withValues(target, new Map<Param, Numbers>([[own, start]]));
}

export interface SpotStart {
  /** Models after a few steps on each source task, and fully trained, in the same order. */
  readonly early: readonly Model[];
  readonly trained: readonly Model[];
  /** The target after as many steps on its own task as the early ones. */
  readonly target: Model;
  /** How many of the most similar sources: 1 takes the best; more are weighed by their similarity. */
  readonly top: number;
}

/** Where the target's training should start, and what was found: sources by similarity, the most similar first. */
export function spotStart(s: SpotStart): {
  readonly model: Model;
  readonly order: readonly { readonly source: number; readonly similarity: number }[];
} {
  if (s.early.length !== s.trained.length || !Number.isInteger(s.top) || s.top < 1 || s.top > s.trained.length)
    throw new RangeError(
      `spotStart: ${s.early.length} early and ${s.trained.length} trained models with top ${s.top}; give one of each per source, and a top up to their number`,
    );
  const own = taskEmbedding(s.target);
  const order = s.early
    .map((m, source) => ({ source, similarity: similarity(own, taskEmbedding(m)) }))
    .sort((a, b) => b.similarity - a.similarity);
  const best = order.slice(0, s.top);
  const sum = best.reduce((n, o) => n + o.similarity, 0);
  if (s.top > 1 && !(best.at(-1)!.similarity > 0))
    throw new RangeError(
      `spotStart: source ${best.at(-1)!.source} is not similar at all (${best.at(-1)!.similarity}), and cannot be weighed; lower top`,
    );
  return {
    model: transferred(
      s.target,
      best.map((o) => s.trained[o.source]!),
      s.top === 1 ? [1] : best.map((o) => o.similarity / sum),
    ),
    order,
  };
}
