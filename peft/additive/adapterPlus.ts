// Adapter+: a bottleneck behind each block, its answer scaled channel by channel; in training it is left out for some texts.
//   y = h + s ⊙ D(W_up σ(W_down h + b_down) + b_up),   h the block's answer, s ∈ ℝ^d;   D: 0 with probability p for a whole text, else ÷ (1 − p)
// Steitz and Roth 2024, arXiv 2406.06820, §3.5. The authors' `post` position; AdapterHub's Adapter+ stands at the same place, before no norm.
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between } from '../check.ts';
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

export interface AdapterPlusConfig extends BottleneckConfig {
  readonly init: BottleneckInit;
  readonly stochasticDepth: number; // p
}

/**
 * Defaults as AdapterHub's `AdapterPlusConfig`: m = d/96, GELU, p = 0.1, weights normal with std 0.01 cut at two of it, s = 1. The authors'
 * vision runs have m = 8 (1 … 32). Not decayed: s. Count: 2md + m + 2d for each block.
 */
export const adapterPlus = defineMethod<'block', AdapterPlusConfig, Bottleneck & { readonly s: Tensor }>({
  name: 'adapterPlus',
  family: 'additive',
  paper: 'arXiv:2406.06820',
  at: 'block',
  defaults: { bottleneck: null, reduction: 96, activation: 'gelu', init: 'houlsby', stochasticDepth: 0.1, where: /./ },
  takes: ADAPTER,
  check: (_, c) => {
    checkBottleneck('adapterPlus', c);
    between('adapterPlus', 'stochasticDepth', c.stochasticDepth, 0, 1);
  },
  init: (site, c, r) => {
    const d = site.dim('width');
    return { train: { ...newBottleneck(c, d, c.init, r), s: param(new Float32Array(d).fill(1), [d], { decay: false }) } };
  },
  around: (call, p, c, site) => (x, ctx) => {
    const h = call(x, ctx); // [B, T, d]
    const change = throughBottleneck(h, p, c.activation).mul(p.s);
    const keep = 1 - c.stochasticDepth;
    const kept = keep === 1 ? null : ctx.draw.bernoulli(site.field, [h.shape[0]!, 1, 1], keep);
    return h.add(kept === null ? change : change.mul(kept).mul(1 / keep));
  },
  count: (sites, c) => {
    const train = sites.reduce((n, s) => n + sizeOf(c, s.dim('width')) + s.dim('width'), 0);
    return { train, stored: train };
  },
  startsAsBase: (c) => (c.init === 'zero' ? 'close' : 'no'),
});
