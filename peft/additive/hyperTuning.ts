// HyperTuning: a model reads a few examples of a task and writes the parameters of a method on another model, which is never trained.
//   θ = start + W₂ GELU(W₁ h_q + b₁) + b₂,   h_q = hyper(examples, queries)_q:   one learned query per block, one W₁, W₂ per kind of tensor
// What reads and is read: hyperTuned.ts.
// Phang et al. 2022, arXiv 2211.12485: from few-shot examples to soft prefixes (HyperT5-Prefix) or LoRA (HyperT5-LoRA) of a frozen model.
import type { Rng } from '../../core/rng.ts';
import { size } from '../../core/shape.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { backboneOf, numberOf } from '../../nn/backbone.ts';
import type { Fields, Model } from '../../nn/layer.ts';
import { trainable } from '../../nn/tree.ts';
import { blockNumber } from '../site.ts';

/** What is trained: the reading model, its queries [Q, d], and W₁, b₁, W₂, b₂ for each kind of tensor. A tree for a trainer. */
export interface HyperTuner extends Fields {
  readonly hyper: Model;
  readonly queries: Tensor;
  readonly heads: { readonly [kind: string]: readonly Tensor[] };
}

/** Tensors in the same place of different blocks are of one kind. */
export const kindOf = (path: string): string => path.replace(/\bblocks\.\d+/, 'blocks');
/** The query a tensor is written from: its block's, or the first for what is outside the blocks. */
export const queryOf = (path: string): number => (blockNumber(path) ?? -1) + 1;

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
