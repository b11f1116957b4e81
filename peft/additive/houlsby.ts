// The serial adapter: a bottleneck with a residual of its own on the output of each sublayer, before the sublayer's residual.
//   A(h) = h + W_up σ(W_down h + b_down) + b_up,   h = attention(x) or mlp(x)
// Houlsby et al. 2019, arXiv 1902.00751, §2.1.
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

export interface HoulsbyConfig extends BottleneckConfig {
  readonly init: BottleneckInit;
}

/**
 * Two adapters per block. The paper trains the norms (and a task's head) too, which is a step of its own:
 * `unfreeze(houlsby()(base), (path) => /norm\d?\.(weight|bias)$/.test(path))`.
 * σ is SiLU and m = d/16 as in AdapterHub's `double_seq_bn`; the paper's code has σ = GELU and m = 64.
 * Count: 2md + m + d at each place; twice that per block. Starts as the base only with `init: 'zero'`.
 */
export const houlsby = defineMethod<'branch', HoulsbyConfig, Bottleneck>({
  name: 'houlsby',
  family: 'additive',
  paper: 'arXiv:1902.00751',
  at: 'branch',
  defaults: { bottleneck: null, reduction: 16, activation: 'silu', init: 'bert', where: ['attn', 'mlp'] },
  takes: ADAPTER,
  check: (_, c) => checkBottleneck('houlsby', c),
  init: (site, c, r) => ({ train: newBottleneck(c, site.dim('width'), c.init, r) }),
  around: (call, p, c) => (x, ctx) => {
    const h = call(x, ctx); // [B, T, d]
    return h.add(throughBottleneck(h, p, c.activation));
  },
  count: (sites, c) => {
    const train = sites.reduce((n, s) => n + sizeOf(c, s.dim('width')), 0);
    return { train, stored: train };
  },
  startsAsBase: (c) => (c.init === 'zero' ? 'close' : 'no'),
});
