// AdaMix: M experts for each projection of an adapter, one drawn at random in every pass; averaged into one adapter afterwards.
//   h' = h + W_up^j σ(W_down^i h + b_down^i) + b_up^j,   i, j ~ U{1, …, M} independently, for each place and pass
//   evaluated and finished: the means of the M matrices and biases in their place
// Wang et al. 2022, arXiv 2205.12410, §3.
import type { Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import {
  ADAPTER,
  type Bottleneck,
  type BottleneckConfig,
  type BottleneckInit,
  checkBottleneck,
  listOf,
  newBottleneck,
  throughBottleneck,
  widthOf,
} from './bottleneck.ts';
import { averaged, routed } from './expertDraw.ts';

export interface AdamixConfig extends BottleneckConfig {
  readonly experts: number; // M
  readonly shareDown: boolean; // one down projection for all experts
  readonly shareUp: boolean;
  readonly init: BottleneckInit;
}

/** Experts as lists: down [m, d], downBias [m], up [d, m], upBias [d]. */
type Experts = { readonly [K in keyof Bottleneck]: readonly Tensor[] };

const counts = (c: AdamixConfig): readonly [down: number, up: number] => [c.shareDown ? 1 : c.experts, c.shareUp ? 1 : c.experts];

/**
 * At the feed-forward sublayer, reading its output, as in the authors' code; sizes are theirs for BERT-base. Train it with `twoPasses` (adamixLoss.ts).
 * Works with a learning rate of 4e-4, weight decay 0.1, warm-up 0.06. Experts start apart, each N(0, 0.02²).
 * Count trained: M(md + m) + M(md + d), a shared projection once; stored after `finish`: 2md + m + d.
 */
export const adamix = defineMethod<'branch', AdamixConfig, Experts>({
  name: 'adamix',
  family: 'additive',
  paper: 'arXiv:2205.12410',
  at: 'branch',
  defaults: {
    ...{ experts: 4, bottleneck: 48, reduction: 16, activation: 'gelu', shareDown: false, shareUp: false, init: 'bert' },
    where: 'mlp',
  },
  takes: ADAPTER,
  check: (_, c) => {
    wholeNumber('adamix', 'experts', c.experts);
    checkBottleneck('adamix', c);
  },
  init: (site, c, r) => {
    const all = Array.from({ length: c.experts }, (_, k) => newBottleneck(c, site.dim('width'), c.init, r.split(`expert ${k}`)));
    const [downs, ups] = counts(c);
    const { down, downBias, up, upBias } = listOf(all);
    return {
      train: { down: down.slice(0, downs), downBias: downBias.slice(0, downs), up: up.slice(0, ups), upBias: upBias.slice(0, ups) },
    };
  },
  around: (call, p, c, site) => (x, ctx) => {
    const [down, downBias] = routed([p.down, p.downBias], `${site.field} down`, ctx) as [Tensor, Tensor];
    const [up, upBias] = routed([p.up, p.upBias], `${site.field} up`, ctx) as [Tensor, Tensor];
    const h = call(x, ctx); // [B, T, d]
    return h.add(throughBottleneck(h, { down, downBias, up, upBias }, c.activation));
  },
  finish: (p) => ({ down: [averaged(p.down)], downBias: [averaged(p.downBias)], up: [averaged(p.up)], upBias: [averaged(p.upBias)] }),
  count: (sites, c) => {
    const [downs, ups] = counts(c);
    const of = (nDown: number, nUp: number): number =>
      sites.reduce((n, s) => {
        const [d, m] = [s.dim('width'), widthOf(c, s.dim('width'))];
        return n + nDown * (m * d + m) + nUp * (m * d + d);
      }, 0);
    return { train: of(downs, ups), stored: of(1, 1) };
  },
  startsAsBase: (c) => (c.init === 'zero' ? 'close' : 'no'),
});
