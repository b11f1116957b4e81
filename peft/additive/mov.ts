// MoV, a mixture of vectors: what (IA)³ rescales with one vector is rescaled with a mixture of E, chosen token by token.
//   z ⊙ Σ_e g_e(z) l_e,   g = softmax(W_r z);   z is a key or value after its projection, or the input of the feed-forward's last layer
// Zadouri et al. 2023, arXiv 2309.05444, §3.1.
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between, wholeNumber } from '../check.ts';
import { matches, PLACES, type Site, type Where } from '../site.ts';
import { newRouter, type RouterConfig, routed } from './router.ts';

export interface MovConfig extends RouterConfig {
  readonly feedforward: Where; // sites whose input is rescaled; elsewhere it is the output, after the bias
}
/** Length of z. */
const widthAt = (site: Site<'linear'>, c: MovConfig): number => site.shape[matches(c.feedforward, site.path) ? 1 : 0]!;

/**
 * All experts are heard (soft merging), which the paper finds better than the best one or two; so it depends on the token and cannot
 * be merged. l = 1 at first. The balance loss (default 0) is an option that dense shares do not need. One expert is (IA)³.
 * Count per site of width n: E·n vectors and E·n router.
 */
export const mov = defineMethod<'linear', MovConfig, { readonly l: Tensor; readonly router: Tensor }>({
  name: 'mov',
  family: 'additive',
  paper: 'arXiv:2309.05444',
  at: 'linear',
  defaults: { experts: 10, balance: 0, feedforward: 'down', where: ['k', 'v', 'down'] },
  takes: { feedforward: PLACES },
  otherwise: "Where queries, keys and values are one layer, write where: ['qkv', 'down']; its queries are then rescaled too.",
  check: (_, c) => {
    wholeNumber('mov', 'experts', c.experts);
    between('mov', 'balance', c.balance, 0, Number.MAX_VALUE);
  },
  init: (site, c, r) => {
    const n = widthAt(site, c);
    return {
      train: {
        l: param(new Float32Array(c.experts * n).fill(1), [c.experts, n], { decay: false }),
        router: newRouter(c.experts, n, r),
      },
    };
  },
  around: (call, { l, router }, c, site) => {
    const mixed = (z: Tensor, ctx: Parameters<typeof call>[1]): Tensor => z.mul(routed(z, router, c, ctx, site.path).matmul(l));
    return matches(c.feedforward, site.path) ? (x, ctx) => call(mixed(x, ctx), ctx) : (x, ctx) => mixed(call(x, ctx), ctx);
  },
  count: (sites, c) => {
    const train = sites.reduce((n, s) => n + 2 * c.experts * widthAt(s, c), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // Σ g = 1 up to rounding
});
