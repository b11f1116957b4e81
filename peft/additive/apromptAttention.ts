// APrompt's attention: keys and values in front of those of the text, and columns of their own beside queries and keys.
//   softmax([q | R_q] [[P_k; k] | R_k]ᵀ/√D) [P_v; v]
// Wang et al. 2023 (EMNLP), §4.2; the axis of R is that of E2VPT's code (2307.13770).
import { iota, oneHot } from '../../core/ops/index.ts';
import { broadcastTo, concat, pad, reshape } from '../../core/ops/move.ts';
import { sum } from '../../core/ops/reduce.ts';
import { ShapeError } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';
import { type Context, withKeys } from '../../nn/context.ts';
import { BASE, type Layer, layer } from '../../nn/layer.ts';
import type { Site } from '../site.ts';
import { asHeads } from './prefixAttention.ts';

export interface APromptConfig {
  readonly length: number; // p
  readonly queryKey: number; // a
  readonly keyValue: number; // b
  readonly tokens: number; // of the longest text, which decides how many places R has
}
/** Of one attention layer: keys and values [b, Hk·D], R_q as queryPlaces [H, n, a], R_k as keyPlaces [Hk, b + n, a]. */
export type AttentionPrompts = Record<'keys' | 'values' | 'queryPlaces' | 'keyPlaces', Tensor>;

export function attentionSizes(
  a: Site<'attend'>,
  { length, queryKey, keyValue, tokens }: APromptConfig,
): { readonly [K in keyof AttentionPrompts]: readonly number[] } {
  const n = length + tokens;
  const rows = [keyValue, a.dim('kvHeads') * a.dim('headWidth')];
  return { keys: rows, values: rows, queryPlaces: [a.dim('heads'), n, queryKey], keyPlaces: [a.dim('kvHeads'), keyValue + n, queryKey] };
}

/** R_q of the T queries of a pass over S keys: those of the last T places, or with a filled cache of the last ones in use. [1 or B, H, T, a] */
function rowsOfQueries(table: Tensor, t: number, s: number, ctx: Context): Tensor {
  const [heads, n, a] = table.shape as readonly [number, number, number];
  if (!ctx.cache?.filled || ctx.keyMask === null) return reshape(table.slice(1, s - t, s), [1, heads, t, a]);
  const last = sum(ctx.keyMask, [1], true).sub(t); // [B, 1]
  const place = last.add(iota(t)); // [B, T]
  return oneHot(reshape(place, [place.shape[0]!, 1, t]), n).matmul(table); // [B, 1, T, n]·[H, n, a]
}

/** Attention with all of them. Columns go behind the head's own, where other methods put zeros beside theirs. */
export const underPrompts = (
  call: Layer<'attend'>,
  { keys, values, queryPlaces, keyPlaces }: AttentionPrompts,
  path: string,
): Layer<'attend'> =>
  layer('attend', { [BASE]: call }, ({ [BASE]: call }) => (q, k, v, ctx) => {
    const [b, , t, width] = q.shape as readonly [number, number, number, number];
    const [front, s] = [keys.shape[0]!, k.shape[2]!];
    const [most, a] = queryPlaces.shape.slice(1) as [number, number];
    const filled = ctx.cache?.filled === true; // its columns that are not in use may be more
    if (s > most && !filled)
      throw new ShapeError(`aprompt at ${path}: ${s} rows, but its tables have ${most} places; shorten the text or raise tokens`);
    const beside = (x: Tensor, rows: Tensor): Tensor => concat([x, broadcastTo(rows, [b, x.shape[1]!, x.shape[2]!, a])], 3);
    const places = pad(keyPlaces.slice(1, 0, front + Math.min(s, most)), 1, 0, Math.max(s - most, 0)); // [Hk, b + S, a]
    const scale = Math.sqrt((width + a) / width); // scores are over √D, not over √(D + a)
    return call(
      beside(q, rowsOfQueries(queryPlaces, t, s, ctx)).mul(scale),
      beside(concat([asHeads(keys, k), k], 2), reshape(places, [1, k.shape[1]!, front + s, a])),
      concat([asHeads(values, v), v], 2),
      withKeys(ctx, front),
    );
  });
