// ReFT's positions: the first p and the last s real tokens of each text.
// Wu et al. 2024, arXiv 2404.03592, §3.2.
import { iota } from '../../core/ops/index.ts';
import { full, ge, le, lt, mul, sub } from '../../core/ops/map.ts';
import { reshape } from '../../core/ops/move.ts';
import { sum } from '../../core/ops/reduce.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';

export interface ReftConfig {
  readonly rank: number;
  readonly prefix: number; // p, positions from the front
  readonly suffix: number; // s, positions from the end
  readonly tied: boolean; // one unit for both groups
  readonly dropout: number; // on the edited states, as the authors do
}

/** 1 at the first p, and at the last s, real tokens of a text of T: [B, T, 1] each. Padding on either side is honoured. */
export function groups(h: Tensor, { prefix, suffix }: ReftConfig, ctx: Context): { first: Tensor; last: Tensor } {
  const [b, t] = h.shape as readonly [number, number];
  const as = (m: Tensor): Tensor => reshape(m, [b, t, 1]);
  if (ctx.cache?.filled) {
    // A token made in generation is in no group, unless the text was shorter than p; padding is not part of it.
    const first = lt(ctx.positions, prefix);
    return { first: as(first.shape.length === 1 ? mul(full([b, 1], 1), first) : first), last: as(full([b, t], 0)) };
  }
  const real = ctx.keyMask === null ? full([b, t], 1) : ctx.keyMask.slice(1, -t); // without keys that a prefix put in front
  const upTo = real.matmul(le(reshape(iota(t), [t, 1]), iota(t))); // how many real tokens up to each one, itself included
  const all = sum(real, [1], true);
  return { first: as(real.mul(le(upTo, prefix))), last: as(real.mul(ge(upTo, sub(all, suffix).add(1)))) };
}
