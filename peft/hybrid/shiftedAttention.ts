// S²-Attn: attention inside groups of G tokens, half of the heads with groups shifted by G/2, so that neighbours overlap.
//   heads 1 … H/2:    groups [0, G), [G, 2G), …, [T−G, T)
//   heads H/2+1 … H:  groups [0, G/2), [G/2, 3G/2), …, [T−G/2, T)
// Chen et al. 2024, arXiv 2309.12307, §3.2. For training: its parameters are those of full attention, which is for what follows.
import { concat } from '../../core/ops/move.ts';
import { ShapeError } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import { BASE, layer, type Model } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import { grouped, type Heads, shifted } from './groupedAttention.ts';

export interface ShiftedAttentionOptions {
  /** Groups per text: G = T / groups (4, the authors' group_size_ratio of ¼). With one group there is nothing to shift: full attention. */
  readonly groups?: number;
  /**
   * `segments` never leaves the order of the text. `roll` is what the authors' plain path does: roll the shifted heads by −G/2 and cut
   * every G tokens. Its last group holds the end of the text followed by its beginning, and under the causal mask the first G/2 tokens
   * see the last G/2: it leaks what is to be predicted, and is here for comparison only.
   */
  readonly form?: 'segments' | 'roll';
}

/** Query heads from … to with the key heads they share; keys that serve both halves of the heads serve each. */
function half(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | null, second: boolean): Heads {
  const part = (x: Tensor): Tensor => {
    const h = x.shape[1]!;
    return h === 1 ? x : second ? x.slice(1, h / 2) : x.slice(1, 0, h / 2);
  };
  return { q: part(q), k: part(k), v: part(v), mask };
}

/**
 * The model with S²-Attn in the place of every attention; the weights are shared, so that one training serves both:
 * `trainer(shiftedAttention()(model))`, then `await t.model(model)` has the trained values under full attention.
 * Throws (when called) where T does not divide into groups of even size, where the heads do not divide into halves, where a prefix
 * brings keys that belong to no group, and in generation.
 */
export function shiftedAttention({ groups = 4, form = 'segments' }: ShiftedAttentionOptions = {}): (model: Model) => Model {
  if (!Number.isInteger(groups) || groups < 1)
    throw new RangeError(`shiftedAttention: groups ${groups} must be a whole number from 1; 4 is the paper's`);
  return (model) =>
    substitute(model, 'attend', (base, path) =>
      layer('attend', { [BASE]: base }, (f) => (q, k, v, ctx) => {
        check(path, q, k, groups, ctx);
        if (groups === 1) return f[BASE](q, k, v, ctx);
        const [plain, moved] = [half(q, k, v, ctx.keyMask, false), half(q, k, v, ctx.keyMask, true)];
        return concat([grouped(f[BASE], plain, groups, ctx), shifted(f[BASE], moved, groups, form, ctx)], 1);
      }),
    );
}

function check(path: string, q: Tensor, k: Tensor, groups: number, ctx: Context): void {
  const [, h, t] = q.shape as readonly [number, number, number];
  if (ctx.cache !== null)
    throw new Error(
      `shiftedAttention at ${path}: it is for training; generate with the model it was made from (after training: await trainer.model(thatModel))`,
    );
  if (k.shape[2] !== t)
    throw new ShapeError(
      `shiftedAttention at ${path}: ${k.shape[2]} keys for ${t} tokens; keys in front of the text (a prefix) belong to no group, so use a method without them`,
    );
  if (t % groups || (groups > 1 && (t / groups) % 2))
    throw new ShapeError(
      `shiftedAttention at ${path}: ${t} tokens do not divide into ${groups} groups of even size; train on texts of a multiple of ${2 * groups} tokens`,
    );
  const hk = k.shape[1]!;
  if (groups > 1 && (h % 2 || (hk > 1 && hk % 2)))
    throw new ShapeError(
      `shiftedAttention at ${path}: ${h} query heads and ${hk} key heads do not divide into two halves, one of which is shifted`,
    );
}
