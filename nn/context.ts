// What every call passes along besides its input: masks, positions, cache, randomness, and where extra losses go.

import { iota } from '../core/ops/index.ts';
import { full } from '../core/ops/map.ts';
import { concat } from '../core/ops/move.ts';
import { here } from '../core/scope.ts';
import type { Shape } from '../core/shape.ts';
import { type Fill, input, type Tensor } from '../core/tensor.ts';

/** Randomness as an argument. `null` is the quiet answer: behave deterministically. */
export interface Draw {
  /** 1 with probability `keep`, fresh on every run; named by the layer's path, so that each layer draws its own. */
  bernoulli(name: string, shape: Shape, keep: number): Tensor | null;
  uniform(name: string, shape: Shape): Tensor | null;
  normal(name: string, shape: Shape): Tensor | null;
}

/** No randomness: evaluation, generation, merging. */
export const quiet: Draw = { bernoulli: () => null, uniform: () => null, normal: () => null };

/** Randomness fed on every run. Two stochastic passes of one step need two `pass` numbers, else they are one computation. */
export function stochastic(pass = 0): Draw {
  const draw = (name: string, shape: Shape, fill: Fill): Tensor => input(`draw ${pass} ${here().path}.${name}`, shape, fill);
  return {
    bernoulli: (name, shape, keep) => draw(name, shape, { dist: 'bernoulli', keep }),
    uniform: (name, shape) => draw(name, shape, { dist: 'uniform' }),
    normal: (name, shape) => draw(name, shape, { dist: 'normal' }),
  };
}

/** Keys and values of earlier tokens. Attention layers hand over their own and get back what to attend to. */
export interface Cache {
  /** True in a decode pass: earlier tokens (and any prompt) are already inside. */
  readonly filled: boolean;
  /**
   * k, v [B, Hk, T, D] of this pass; answers the keys and values to attend to, and which of them are in use ([B, S]) where
   * that is not what the context says. Keyed by the layer's path.
   */
  exchange(k: Tensor, v: Tensor): { k: Tensor; v: Tensor; keyMask?: Tensor };
}

/** The other side of a branch's addition: a block computes norm(stream + branch(x)). */
export interface Residual {
  /** What the branch's answer is added to, [B, T, D]. */
  readonly stream: Tensor;
  /** The norm that follows the addition in a post-norm block; null in a pre-norm block. */
  readonly norm: ((sum: Tensor) => Tensor) | null;
}

/** The ids of a text as far as a pass knows them. */
export interface Seen {
  readonly ids: Tensor; // [B, S]: of this pass, and with a cache of the passes before it
  readonly used: Tensor | null; // [B, S], 1 where there is a token; null: everywhere
}

export interface Context {
  /** [B, S], 1 for keys that may be attended to, 0 for padding; null when all may. */
  readonly keyMask: Tensor | null;
  /** Position of each token, [T] or [B, T]. */
  readonly positions: Tensor;
  /** Whether token i is kept from seeing tokens after it. */
  readonly causal: boolean;
  readonly cache: Cache | null;
  /** What a language model does with its last hidden states [B, T, D] and its head, when not just `head(h)`: a loss in chunks. */
  readonly readOut?: (h: Tensor, head: (h: Tensor) => Tensor) => Tensor;
  /** [B]: the one token of each row whose answer is wanted, so that a language model's head computes [B, 1, V]; all without it. */
  readonly only?: Tensor | null;
  /** Within a residual branch: what its answer is added to. A block says it to its branches. */
  readonly residual?: Residual;
  /** For methods that act where a certain text is: a model says it to its layers. A cache keeps the ids only where a method asks for them. */
  readonly seen?: () => Seen;
  readonly draw: Draw;
  /** Adds a loss that needs activations (a router's balance, say). The trainer sums them under their names. */
  aux(name: string, loss: Tensor): void;
}

/** A context for T tokens from position 0. */
export const context = (tokens: number, change: Partial<Context> = {}): Context => ({
  keyMask: null,
  positions: iota(tokens),
  causal: false,
  cache: null,
  draw: quiet,
  aux: () => {},
  ...change,
});

/** Positions moved up by p: the tokens come after p others. */
export const shifted = (ctx: Context, p: number): Context => ({ ...ctx, positions: ctx.positions.add(p) });

/** p more keys in front that every token may attend to (a prefix). */
export const withKeys = (ctx: Context, p: number): Context =>
  ctx.keyMask === null ? ctx : { ...ctx, keyMask: concat([full([ctx.keyMask.shape[0]!, p], 1), ctx.keyMask], 1) };

/** p more tokens in front (a prompt): they start where the text started, the text moves up, and all may attend to them. */
export function withTokens(ctx: Context, p: number): Context {
  const at = ctx.positions.shape.length - 1;
  const front = ctx.positions.slice(at, 0, 1).add(iota(p)); // not from 0: a prefix may stand before them
  return { ...withKeys(ctx, p), positions: concat([front, shifted(ctx, p).positions], at) };
}
