// The Pfeiffer adapter, one per block: it reads the normalised sum after the feed-forward sublayer, and adds to the sublayer's output.
//   h' = h + W_up σ(W_down z + b_down) + b_up,   h = mlp(x),   z = norm(h + u) in a post-norm block, h + u in a pre-norm block
// and the block goes on as before: h' + u, normalised again where it is post-norm. u is what h is added to.
// Pfeiffer et al. 2021, arXiv 2005.00247, §3.
import type { Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import { defineMethod } from '../attach.ts';
import {
  ADAPTER,
  type Bottleneck,
  type BottleneckConfig,
  type BottleneckInit,
  checkBottleneck,
  newBottleneck,
  sizeOf,
  throughBottleneck,
} from './bottleneck.ts';
import { residualOf } from './residualStream.ts';

export interface PfeifferConfig extends BottleneckConfig {
  readonly init: BottleneckInit;
}

/** z: what the adapter after a branch reads, given the branch's answer h [B, T, d]. */
export function reading(h: Tensor, ctx: Context, method: string, path: string): Tensor {
  const { stream, norm } = residualOf(ctx, method, path);
  const sum = h.add(stream);
  return norm === null ? sum : norm(sum);
}

/**
 * Defaults as AdapterHub's `seq_bn`: m = d/16, ReLU, N(0, 0.02²). Attached again, the second one reads and adds to the first one's answer,
 * as a task adapter on a language adapter does in MAD-X. Learning rate 1e-4 in the paper.
 * Count: 2md + m + d for each block. Starts as the base only with `init: 'zero'`.
 */
export const pfeiffer = defineMethod<'branch', PfeifferConfig, Bottleneck>({
  name: 'pfeiffer',
  family: 'additive',
  paper: 'arXiv:2005.00247',
  at: 'branch',
  defaults: { bottleneck: null, reduction: 16, activation: 'relu', init: 'bert', where: 'mlp' },
  takes: ADAPTER,
  check: (_, c) => checkBottleneck('pfeiffer', c),
  init: (site, c, r) => ({ train: newBottleneck(c, site.dim('width'), c.init, r) }),
  around: (call, p, c, site) => (x, ctx) => {
    const h = call(x, ctx); // [B, T, d]
    return h.add(throughBottleneck(reading(h, ctx, 'pfeiffer', site.path), p, c.activation));
  },
  count: (sites, c) => {
    const train = sites.reduce((n, s) => n + sizeOf(c, s.dim('width')), 0);
    return { train, stored: train };
  },
  startsAsBase: (c) => (c.init === 'zero' ? 'close' : 'no'),
});
