// The tiny-attention adapter: after the attention sublayer, one more attention, so narrow (width 1) that it costs what a bias does.
//   y = z + V_o·MHA(V_i LN(z) + c_i) + c_o,   MHA of width e and H heads with projections of its own;   z the normalised or plain sum after attention
// Zhao et al. 2022, arXiv 2211.01979, as in the authors' code (their structure `m0`). Longer than 100 lines: a whole attention,
// placed after the other one in pre-norm and in post-norm blocks.
import { attention, keyBias, layerNorm } from '../../core/ops/fused.ts';
import { named } from '../../core/scope.ts';
import { size } from '../../core/shape.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import { BASE, layer } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import { realTokens } from './reading.ts';
import { residualOf } from './residualStream.ts';

export interface TinyAttnConfig {
  readonly width: number; // e
  readonly heads: number; // H
}
/** Gain and shift of LN, then V_i, in-projection, out-projection and V_o with their biases. */
type Tiny = {
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
function tiny(z: Tensor, p: Tiny, { width: e, heads }: TinyAttnConfig, ctx: Context): Tensor {
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

/**
 * z is what the feed-forward's half of the block starts from: the stream after attention, normalised in a post-norm block. Defaults e = H = 1
 * are those of the authors' runs. Start: V_i and c_i ~ U(±1/√d), in-projection Xavier, out-projection U(±1/√e), V_o and c_o
 * U(±1/√e)/100, other biases 0. The authors drop a tenth of the attention weights in training; here none. Their averaging of heads into
 * one after training is not here. Learning rate 8e-4 in their example. Count per block: 3de + 2d + 3e + 4e² + 4e + de + d.
 */
export const tinyAttn = defineMethod<'block', TinyAttnConfig, Tiny>({
  name: 'tinyAttn',
  family: 'additive',
  paper: 'arXiv:2211.01979',
  at: 'block',
  defaults: { width: 1, heads: 1, where: /./ },
  check: (_, { width, heads }) => {
    for (const [name, n] of Object.entries({ width, heads })) wholeNumber('tinyAttn', name, n);
    if (width % heads) throw new RangeError(`tinyAttn: ${heads} heads do not divide the width ${width}; choose a multiple`);
  },
  init: (site, { width: e }, r) => {
    const d = site.dim('width');
    const made = (name: string, shape: readonly number[], bound: number): Tensor =>
      param(bound === 0 ? new Float32Array(size(shape)) : r.split(name).uniform(size(shape), -bound, bound), shape, {
        decay: shape.length > 1,
      });
    const [byD, byE] = [1 / Math.sqrt(d), 1 / Math.sqrt(e)];
    return {
      train: {
        ...{ gain: param(new Float32Array(d).fill(1), [d], { decay: false }), shift: made('shift', [d], 0) },
        ...{ into: made('into', [3 * e, d], byD), intoBias: made('intoBias', [3 * e], byD) },
        ...{ project: made('project', [3 * e, e], Math.sqrt(6 / (4 * e))), projectBias: made('projectBias', [3 * e], 0) },
        ...{ join: made('join', [e, e], byE), joinBias: made('joinBias', [e], 0) },
        ...{ out: made('out', [d, e], byE / 100), outBias: made('outBias', [d], byE / 100) },
      },
    };
  },
  around: (call, p, c, site) => (h, ctx) => {
    const change = (z: Tensor, at: Context): Tensor => named(site.field, () => tiny(z, p, c, at));
    const adapted = substitute(
      call,
      'branch',
      (l, path) =>
        layer('branch', { [BASE]: l }, ({ [BASE]: l }) => (x, at) => {
          const { stream, norm } = residualOf(at, 'tinyAttn', path);
          if (path.endsWith('.attn') && norm === null) {
            const y = l(x, at);
            return y.add(change(stream.add(y), at));
          }
          if (!path.endsWith('.mlp') || norm === null) return l(x, at);
          const t = change(x, at); // post-norm: x is the stream, and goes on with what is added to it
          return t.add(l(x.add(t), { ...at, residual: { stream: stream.add(t), norm } }));
        }),
      site.path,
    );
    return adapted(h, ctx);
  },
  count: (sites, { width: e }) => {
    const train = sites.reduce((n, s) => n + s.dim('width') * (4 * e + 3) + 3 * e + 4 * e * e + 4 * e, 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});
