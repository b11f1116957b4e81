// What methods share whose prompt depends on the text: a vector for the whole text, and the refusal where reading it all would cheat.
import { max } from '../../core/ops/map.ts';
import { reshape } from '../../core/ops/move.ts';
import { sum } from '../../core/ops/reduce.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import type { Kind } from '../../nn/layer.ts';
import { bare, type Site } from '../site.ts';

/**
 * In a language model a prompt (or whatever `what` says) made of the whole text would let every token see those after it. A decoder with a text classifier's head
 * reads the text as a whole anyway.
 */
export function readsWhole(method: string, site: Site<Kind>, what = 'prompt'): void {
  const { causal, pool } = bare(site.root).fields;
  if (causal === true && pool === undefined)
    throw new Error(
      `${method}: its ${what} is made of the whole text, and in this language model each token would see those after it through the ${what}; use an encoder, or put a text classifier on the decoder first`,
    );
}

/** 1 for the real ones of the T tokens of h [B, T, d], keys that others put in front left out: [B, T], or null when all are real. */
export const realTokens = (h: Tensor, ctx: Context): Tensor | null => (ctx.keyMask === null ? null : ctx.keyMask.slice(1, -h.shape[1]!));

/** Mean over the real tokens: [B, T, d] → [B, d]. */
export function meanOverText(h: Tensor, ctx: Context): Tensor {
  const real = realTokens(h, ctx);
  if (real === null) return h.mean([1]);
  const all = sum(h.mul(reshape(real, [...real.shape, 1])), [1]);
  return all.div(max(sum(real, [1], true), 1));
}

/** Rows that stand before the text between two blocks because a method beneath put them there: the context counts the text alone. */
export const rowsBefore = (h: Tensor, ctx: Context): number => h.shape[1]! - ctx.positions.shape.at(-1)!;
