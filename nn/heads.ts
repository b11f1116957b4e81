// Heads: a class per text or per token, on the backbone of an encoder or decoder.
import { iota } from '../core/ops/index.ts';
import { max, tanh } from '../core/ops/map.ts';
import { reshape } from '../core/ops/move.ts';
import { maxOver, sum } from '../core/ops/reduce.ts';
import type { Rng } from '../core/rng.ts';
import { ShapeError } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';
import { type Backbone, backboneOf, hidden, inside, numberOf, pickToken } from './backbone.ts';
import { type Layer, layer, type Model } from './layer.ts';
import { newLinear } from './linear.ts';

/** How one vector is made of a text: its first token, the mean of its real tokens, or its last real token. */
export type Pool = 'first' | 'mean' | 'last';

/** h [B, T, D], keyMask [B, T] or null (all real) → [B, D]. A row without real tokens gives zeros for mean, its first token for last. */
export function pool(h: Tensor, keyMask: Tensor | null, how: Pool): Tensor {
  const [b, t, d] = h.shape as readonly [number, number, number];
  if (keyMask !== null && (keyMask.shape[0] !== b || keyMask.shape[1] !== t))
    throw new ShapeError(`pool: the key mask is [${keyMask.shape}], but there are ${b} rows of ${t} tokens`);
  if (how === 'first') return reshape(h.slice(1, 0, 1), [b, d]);
  if (how === 'last') return reshape(keyMask === null ? h.slice(1, t - 1) : pickToken(h, maxOver(keyMask.mul(iota(t)), [1])), [b, d]);
  if (keyMask === null) return h.mean([1]);
  const real = sum(h.mul(reshape(keyMask, [b, t, 1])), [1]); // [B, D]
  return real.div(max(sum(keyMask, [1], true), 1));
}

/** logits [B, C] = head(pool(trunk)); with a pooler, head(tanh(pooler(pool(trunk)))) as in BERT and RoBERTa. */
export const textClassifier = (base: Backbone, how: Pool, pooler: Layer<'linear'> | null, head: Layer<'linear'>): Model =>
  layer('model', { ...base, pool: how, pooler, head }, (f) => (batch, ctx) => {
    const c = inside(f, batch, ctx);
    const x = pool(hidden(f, batch, c), c.keyMask, f.pool); // [B, D]
    return f.head(f.pooler === null ? x : tanh(f.pooler(x, c)), c);
  });

/** logits [B, T, C]: one linear layer over every hidden state. */
export const tokenClassifier = (base: Backbone, head: Layer<'linear'>): Model =>
  layer('model', { ...base, head }, (f) => (batch, ctx) => {
    const c = inside(f, batch, ctx);
    return f.head(hidden(f, batch, c), c);
  });

const widthOf = (b: Backbone): number => {
  const width = numberOf(b.trunk, 'width');
  if (width === null) throw new Error('classifier: the trunk shows no width, so the size of the head is unknown');
  return width;
};

export interface ClassifierOptions {
  readonly classes: number;
  readonly pool?: Pool; // decoders: last; encoders: first
  readonly pooler?: boolean; // dense layer and tanh before the head; default: where the first token is taken
}

/** The model's backbone, shared, under a fresh text classifier: [B, T] → [B, C]. Pooler and head are trainable, N(0, 0.02²). */
export function classifier(model: Model, { classes, pool: how, pooler }: ClassifierOptions, r: Rng): Model {
  const base = backboneOf(model);
  const width = widthOf(base);
  const chosen = how ?? (base.causal ? 'last' : 'first');
  if (base.causal && chosen === 'first')
    throw new Error("classifier: the first token of a decoder has seen no other token; use pool: 'last' or 'mean'");
  const dense = (pooler ?? chosen === 'first') ? newLinear(width, width, r.split('pooler')) : null;
  return textClassifier(base, chosen, dense, newLinear(width, classes, r.split('head')));
}

/** The model's backbone, shared, under a fresh token classifier: [B, T] → [B, T, C]. */
export function tagger(model: Model, { classes }: { readonly classes: number }, r: Rng): Model {
  const base = backboneOf(model);
  return tokenClassifier(base, newLinear(widthOf(base), classes, r.split('head')));
}
