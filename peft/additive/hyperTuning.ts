// HyperTuning: a model reads a few examples of a task and writes the parameters of a method on another model, which is never trained.
//   θ = start + W₂ GELU(W₁ h_q + b₁) + b₂,   h_q = hyper(examples, queries)_q:   one learned query per block, one W₁, W₂ per kind of tensor
// Phang et al. 2022, arXiv 2211.12485: from few-shot examples to soft prefixes (HyperT5-Prefix) or LoRA (HyperT5-LoRA) of a frozen model.
import { full, gelu } from '../../core/ops/map.ts';
import { broadcastTo, concat } from '../../core/ops/move.ts';
import type { Rng } from '../../core/rng.ts';
import { size } from '../../core/shape.ts';
import { leaf, param, paramOf, type Tensor } from '../../core/tensor.ts';
import { backboneOf, inside, numberOf } from '../../nn/backbone.ts';
import { context } from '../../nn/context.ts';
import type { Batch, Fields, Model } from '../../nn/layer.ts';
import { mapTensors, trainable } from '../../nn/tree.ts';
import { blockNumber } from '../site.ts';

/** What is trained: the reading model, its queries [Q, d], and W₁, b₁, W₂, b₂ for each kind of tensor. A tree for a trainer. */
export interface HyperTuner extends Fields {
  readonly hyper: Model;
  readonly queries: Tensor;
  readonly heads: { readonly [kind: string]: readonly Tensor[] };
}

/** Tensors in the same place of different blocks are of one kind. */
const kindOf = (path: string): string => path.replace(/\bblocks\.\d+/, 'blocks');
/** The query a tensor is written from: its block's, or the first for what is outside the blocks. */
const queryOf = (path: string): number => (blockNumber(path) ?? -1) + 1;

/**
 * A tuner for what is trained in `downstream` (a frozen model with lora, a prefix, … on it), around a model that reads: `hyper` may be a copy
 * of the base, trained as a whole as in the paper or with a method on it. Queries ~ N(0, 0.02²); W₁ ~ N(0, 0.02²), W₂ = 0, so that the
 * written parameters begin where the method's own do.
 */
export function hyperTuning(hyper: Model, downstream: Model, hidden: number, r: Rng): HyperTuner {
  const own = [...trainable(downstream)];
  if (own.length === 0)
    throw new Error('hyperTuning: nothing is trained in the downstream model; freeze it and attach lora, a prefix, … first');
  const d = numberOf(backboneOf(hyper).trunk, 'width')!;
  const kinds = new Map(own.map(([p, path]) => [kindOf(path), size(p.shape)]));
  const zeros = (n: number): Tensor => param(new Float32Array(n), [n], { decay: false });
  const count = 1 + Math.max(...own.map(([, path]) => queryOf(path)));
  return {
    hyper,
    queries: param(r.split('queries').normal(count * d, 0.02), [count, d]),
    heads: Object.fromEntries(
      [...kinds].map(([kind, n]) => [
        kind,
        [
          param(r.split(kind).normal(hidden * d, 0.02), [hidden, d]),
          zeros(hidden),
          param(new Float32Array(n * hidden), [n, hidden]),
          zeros(n),
        ],
      ]),
    ),
  };
}

/**
 * The downstream model with the parameters that the tuner writes for a task, given examples of it (ids [B, T]; several rows are averaged).
 * It is a recipe: a loss on it trains the tuner, through many tasks. `realize` makes numbers of it, and a start for training the method
 * itself as the paper does. What is established is the setup in the head of this file; layout of queries and heads is ours (the authors'
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
