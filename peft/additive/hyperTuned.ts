// HyperTuning's other half: the parameters that a tuner (hyperTuning.ts) writes for a task, in the model they are meant for.
// Phang et al. 2022, arXiv 2211.12485.
import { full, gelu } from '../../core/ops/map.ts';
import { broadcastTo, concat } from '../../core/ops/move.ts';
import { size } from '../../core/shape.ts';
import { leaf, paramOf } from '../../core/tensor.ts';
import { backboneOf, inside } from '../../nn/backbone.ts';
import { context } from '../../nn/context.ts';
import type { Batch, Model } from '../../nn/layer.ts';
import { mapTensors, trainable } from '../../nn/tree.ts';
import { type HyperTuner, kindOf, queryOf } from './hyperTuning.ts';

/**
 * The downstream model with the parameters that the tuner writes for a task, given examples of it (ids [B, T]; several rows are averaged).
 * It is a recipe: a loss on it trains the tuner, through many tasks. `realize` makes numbers of it, and a start for training the method
 * itself as the paper does. What is established is the setup in the head of hyperTuning.ts; layout of queries and heads is ours (the authors'
 * reader is a T5 whose decoder gets learned tokens), and their first stage, hyperpretraining, is a loss on continuations of texts.
 */
export function hyperTuned(tuner: HyperTuner, downstream: Model, { ids, keyMask = null }: Batch): Model {
  const f = backboneOf(tuner.hyper);
  const [b, t] = ids.shape as readonly [number, number];
  const [n, d] = tuner.queries.shape as readonly [number, number];
  const mask = keyMask === null ? null : concat([keyMask, full([b, n], 1)], 1);
  const c = inside(f, { ids, keyMask: mask }, context(t + n));
  const words = f.embed(ids, c);
  const read = f.types === null ? words : words.add(f.types(full(ids.shape, 0), c));
  const text = concat([read, broadcastTo(tuner.queries.reshape(1, n, d), [b, n, d])], 1);
  const h = f.trunk(text, c).slice(1, t).mean([0]); // [Q, d]
  const written = new Map(
    [...trainable(downstream)].map(([p, path]) => {
      const [w1, b1, w2, b2] = tuner.heads[kindOf(path)] ?? [];
      const q = queryOf(path);
      if (w2 === undefined || q >= n || w2.shape[0] !== size(p.shape))
        throw new Error(
          `hyperTuned: the tuner writes no ${path} of ${size(p.shape)} numbers; make it with hyperTuning(hyper, downstream, …) for this model`,
        );
      const change = gelu(
        h
          .slice(0, q, q + 1)
          .matmul(w1!.T)
          .add(b1!),
      )
        .matmul(w2.T)
        .add(b2!);
      return [p, leaf(p.value, p.shape).add(change.reshape(...p.shape))] as const;
    }),
  );
  return mapTensors(downstream, (x) => written.get(paramOf(x)!) ?? x);
}
