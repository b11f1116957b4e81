// Attention inside groups of tokens: the text cut into groups that are rows of a batch, whole or shifted by half a group.
// Chen et al. 2024, arXiv 2309.12307, §3.2.
import { concat, permute, reshape, roll } from '../../core/ops/move.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import type { Layer } from '../../nn/layer.ts';

/** [B, h, n·G, D] → [B·n, h, G, D] */
const cut = (x: Tensor, n: number): Tensor => {
  const [b, h, t, d] = x.shape as readonly [number, number, number, number];
  return reshape(permute(reshape(x, [b, h, n, t / n, d]), [0, 2, 1, 3, 4]), [b * n, h, t / n, d]);
};

/** [B·n, h, G, D] → [B, h, n·G, D] */
const joined = (x: Tensor, n: number): Tensor => {
  const [bn, h, g, d] = x.shape as readonly [number, number, number, number];
  return reshape(permute(reshape(x, [bn / n, n, h, g, d]), [0, 2, 1, 3, 4]), [bn / n, h, n * g, d]);
};

export interface Heads {
  readonly q: Tensor; // [B, h, T, D]
  readonly k: Tensor;
  readonly v: Tensor;
  readonly mask: Tensor | null; // [B, T]
}

const each = (x: Heads, f: (t: Tensor) => Tensor, mask: (t: Tensor) => Tensor): Heads => ({
  q: f(x.q),
  k: f(x.k),
  v: f(x.v),
  mask: x.mask === null ? null : mask(x.mask),
});

export const tokens = (x: Heads, from: number, to: number): Heads =>
  each(
    x,
    (t) => t.slice(2, from, to),
    (m) => m.slice(1, from, to),
  );

/** Attention inside n equal groups. */
export function grouped(call: Layer<'attend'>, x: Heads, n: number, ctx: Context): Tensor {
  const g =
    n === 1
      ? x
      : each(
          x,
          (t) => cut(t, n),
          (m) => reshape(m, [m.shape[0]! * n, m.shape[1]! / n]),
        );
  return joined(call(g.q, g.k, g.v, { ...ctx, keyMask: g.mask }), n);
}

/** The shifted heads. T = n·G */
export function shifted(call: Layer<'attend'>, x: Heads, n: number, form: 'segments' | 'roll', ctx: Context): Tensor {
  const t = x.q.shape[2]!;
  const half = t / n / 2;
  if (form === 'roll') {
    const turned = each(
      x,
      (y) => roll(y, -half, 2),
      (m) => roll(m, -half, 1),
    );
    return roll(grouped(call, turned, n, ctx), half, 2);
  }
  return concat(
    [
      grouped(call, tokens(x, 0, half), 1, ctx),
      grouped(call, tokens(x, half, t - half), n - 1, ctx),
      grouped(call, tokens(x, t - half, t), 1, ctx),
    ],
    2,
  );
}
