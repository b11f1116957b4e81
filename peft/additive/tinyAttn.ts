// The tiny-attention adapter: after the attention sublayer, one more attention, so narrow (width 1) that it costs what a bias does.
//   y = z + V_o·MHA(V_i LN(z) + c_i) + c_o,   MHA of width e and H heads with projections of its own;   z the normalised or plain sum after attention
// Zhao et al. 2022, arXiv 2211.01979, as in the authors' code (their structure `m0`).
// The attention itself: narrowAttention.ts. Here is where it stands, in pre-norm and in post-norm blocks.
import { named } from '../../core/scope.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import { BASE, layer } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import { type Narrow, narrow, newNarrow, type TinyAttnConfig } from './narrowAttention.ts';
import { residualOf } from './residualStream.ts';

/**
 * z is what the feed-forward's half of the block starts from: the stream after attention, normalised in a post-norm block. Defaults e = H = 1
 * are those of the authors' runs. Start: V_i and c_i ~ U(±1/√d), in-projection Xavier, out-projection U(±1/√e), V_o and c_o
 * U(±1/√e)/100, other biases 0. The authors drop a tenth of the attention weights in training; here none. Their averaging of heads into
 * one after training is not here. Learning rate 8e-4 in their example. Count per block: 3de + 2d + 3e + 4e² + 4e + de + d.
 */
export const tinyAttn = defineMethod<'block', TinyAttnConfig, Narrow>({
  name: 'tinyAttn',
  family: 'additive',
  paper: 'arXiv:2211.01979',
  at: 'block',
  defaults: { width: 1, heads: 1, where: /./ },
  check: (_, { width, heads }) => {
    for (const [name, n] of Object.entries({ width, heads })) wholeNumber('tinyAttn', name, n);
    if (width % heads) throw new RangeError(`tinyAttn: ${heads} heads do not divide the width ${width}; choose a multiple`);
  },
  init: (site, c, r) => ({ train: newNarrow(c, site.dim('width'), r) }),
  around: (call, p, c, site) => (h, ctx) => {
    const change = (z: Tensor, at: Context): Tensor => named(site.field, () => narrow(z, p, c, at));
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
