// Self-attention as a residual branch: project, split heads, rotate, attend, join, project. MHA and GQA.
import { attention, keyBias, type RopeBands, rope, ropeAngles } from '../core/ops/fused.ts';
import { permute, reshape, slice } from '../core/ops/move.ts';
import type { Rng } from '../core/rng.ts';
import type { Tensor } from '../core/tensor.ts';
import type { Cache, Context } from './context.ts';
import { type Layer, layer } from './layer.ts';
import { newLinear } from './linear.ts';

/** softmax(q·kᵀ/√D + mask)·v; the place for methods that add keys or change how attention is formed. */
export const attend = (heads: number, kvHeads: number, headWidth: number): Layer<'attend'> =>
  layer(
    'attend',
    { heads, kvHeads, headWidth },
    () => (q, k, v, ctx) =>
      attention(q, k, v, { causal: ctx.causal && !ctx.cache?.filled, bias: ctx.keyMask === null ? null : keyBias(ctx.keyMask) }),
  );

/**
 * Rotary positions: position m turns pair k of a head of width D by scale·m·base^(−2k/D), slowed down where `bands` says so. A field
 * of the branch, so that a transform may change it.
 */
export type Rope = { readonly base: number; readonly scale: number; readonly bands?: RopeBands };
export interface AttentionSizes {
  readonly width: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly rope: Rope | null;
}
interface Projections {
  readonly q: Layer<'linear'>;
  readonly k: Layer<'linear'>;
  readonly v: Layer<'linear'>;
  readonly o: Layer<'linear'>;
}

const heads = (x: Tensor, n: number): Tensor => {
  // [B, T, n·D] → [B, n, T, D]
  const [b, t, w] = x.shape as readonly [number, number, number];
  return permute(reshape(x, [b, t, n, w / n]), [0, 2, 1, 3]);
};
const joined = (x: Tensor): Tensor => {
  // [B, H, T, D] → [B, T, H·D]
  const [b, h, t, d] = x.shape as readonly [number, number, number, number];
  return reshape(permute(x, [0, 2, 1, 3]), [b, t, h * d]);
};

interface Mixed {
  readonly attend: Layer<'attend'>;
  readonly rope: Rope | null;
}
/** Rotates, exchanges with the cache, attends. q, k, v as projected: [B, T, ·]. */
function mix(f: Mixed, q: Tensor, k: Tensor, v: Tensor, s: AttentionSizes, ctx: Context): Tensor {
  const r = f.rope;
  const angles = r === null ? null : ropeAngles(headPositions(ctx.positions), s.width / s.heads, r.base, r.scale, r.bands ?? null);
  const turn = (x: Tensor): Tensor => (angles === null ? x : rope(x, angles));
  const fresh = { k: turn(heads(k, s.kvHeads)), v: heads(v, s.kvHeads) };
  const all: ReturnType<Cache['exchange']> = ctx.cache === null ? fresh : ctx.cache.exchange(fresh.k, fresh.v);
  const c = all.keyMask !== undefined ? { ...ctx, keyMask: all.keyMask } : ctx; // a cache has unused columns
  return joined(f.attend(turn(heads(q, s.heads)), all.k, all.v, c));
}
const headPositions = (p: Tensor): Tensor => (p.shape.length === 1 ? p : reshape(p, [p.shape[0]!, 1, p.shape[1]!])); // [T] or [B, 1, T]

/** q, k, v and o as four linear layers. */
export const selfAttention = (p: Projections, s: AttentionSizes): Layer<'branch'> =>
  layer(
    'branch',
    { ...p, attend: attend(s.heads, s.kvHeads, s.width / s.heads), rope: s.rope, width: s.width },
    (f) => (x, ctx) => f.o(mix(f, f.q(x, ctx), f.k(x, ctx), f.v(x, ctx), s, ctx), ctx),
  );

/** One fused linear layer for q, k and v, as in GPT-2. */
export const fusedAttention = (qkv: Layer<'linear'>, o: Layer<'linear'>, s: AttentionSizes): Layer<'branch'> =>
  layer('branch', { qkv, o, attend: attend(s.heads, s.heads, s.width / s.heads), rope: s.rope, width: s.width }, (f) => (x, ctx) => {
    const all = f.qkv(x, ctx); // [B, T, 3D]
    const part = (k: number): Tensor => slice(all, 2, k * s.width, (k + 1) * s.width);
    return f.o(mix(f, part(0), part(1), part(2), s, ctx), ctx);
  });

export function newAttention(
  s: AttentionSizes,
  r: Rng,
  { bias, outBias = bias, fused, std }: { bias: boolean; outBias?: boolean; fused: boolean; std: number },
): Layer<'branch'> {
  const kv = (s.kvHeads * s.width) / s.heads;
  const o = newLinear(s.width, s.width, r.split('o'), { bias: outBias, std });
  if (fused) return fusedAttention(newLinear(s.width, 3 * s.width, r.split('qkv'), { bias }), o, s);
  return selfAttention(
    {
      q: newLinear(s.width, s.width, r.split('q'), { bias }),
      k: newLinear(s.width, kv, r.split('k'), { bias }),
      v: newLinear(s.width, kv, r.split('v'), { bias }),
      o,
    },
    s,
  );
}
