// The attention inside a tiny-attention adapter: a norm, a projection to width e, attention of H heads there, and a projection back.
//   V_o·MHA(V_i LN(z) + c_i) + c_o
// Zhao et al. 2022, arXiv 2211.01979, as in the authors' code.
import { attention, keyBias, layerNorm } from '../../core/ops/fused.ts';
import type { Rng } from '../../core/rng.ts';
import { size } from '../../core/shape.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import { realTokens } from './reading.ts';

export interface TinyAttnConfig {
  readonly width: number; // e
  readonly heads: number; // H
}
/** Gain and shift of LN, then V_i, in-projection, out-projection and V_o with their biases. */
export type Narrow = {
  readonly gain: Tensor;
  readonly shift: Tensor;
  readonly into: Tensor; // [3e, d]
  readonly intoBias: Tensor;
  readonly project: Tensor; // [3e, e]
  readonly projectBias: Tensor;
  readonly join: Tensor; // [e, e]
  readonly joinBias: Tensor;
  readonly out: Tensor; // [d, e]
  readonly outBias: Tensor;
};

/** z [B, T, d] → [B, T, d] */
export function narrow(z: Tensor, p: Narrow, { width: e, heads }: TinyAttnConfig, ctx: Context): Tensor {
  const [b, t] = z.shape as readonly [number, number, number];
  const x = layerNorm(z, p.gain, p.shift).matmul(p.into.T).add(p.intoBias); // [B, T, 3e]
  const part = (k: number): Tensor => {
    const [from, to] = [k * e, (k + 1) * e];
    const y = x
      .slice(2, from, to)
      .matmul(p.project.slice(0, from, to).T)
      .add(p.projectBias.slice(0, from, to));
    return y.reshape(b, t, heads, e / heads).permute(0, 2, 1, 3);
  };
  const fresh = { k: part(1), v: part(2) };
  const all: { readonly k: Tensor; readonly v: Tensor; readonly keyMask?: Tensor } =
    ctx.cache === null ? fresh : ctx.cache.exchange(fresh.k, fresh.v);
  const mask = all.keyMask ?? realTokens(z, ctx);
  const y = attention(part(0), all.k, all.v, { causal: ctx.causal && !ctx.cache?.filled, bias: mask === null ? null : keyBias(mask) });
  return y.permute(0, 2, 1, 3).reshape(b, t, e).matmul(p.join.T).add(p.joinBias).matmul(p.out.T).add(p.outBias);
}

/** For a network of width d; the starts are those `tinyAttn` names. */
export function newNarrow({ width: e }: TinyAttnConfig, d: number, r: Rng): Narrow {
  const made = (name: string, shape: readonly number[], bound: number): Tensor =>
    param(bound === 0 ? new Float32Array(size(shape)) : r.split(name).uniform(size(shape), -bound, bound), shape, {
      decay: shape.length > 1,
    });
  const [byD, byE] = [1 / Math.sqrt(d), 1 / Math.sqrt(e)];
  return {
    ...{ gain: param(new Float32Array(d).fill(1), [d], { decay: false }), shift: made('shift', [d], 0) },
    ...{ into: made('into', [3 * e, d], byD), intoBias: made('intoBias', [3 * e], byD) },
    ...{ project: made('project', [3 * e, e], Math.sqrt(6 / (4 * e))), projectBias: made('projectBias', [3 * e], 0) },
    ...{ join: made('join', [e, e], byE), joinBias: made('joinBias', [e], 0) },
    ...{ out: made('out', [d, e], byE / 100), outBias: made('outBias', [d], byE / 100) },
  };
}
