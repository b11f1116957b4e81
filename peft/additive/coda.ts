// CoDA: in each block a router picks the k tokens that the frozen layers are computed for; a small adapter is computed for all.
//   a = attn(norm h), m = mlp(norm h'):   h' = h + p ⊙ a,   y = h' + p ⊙ m + A(norm h'),   p_t = λ_t for the k tokens of the largest λ, else 0
//   λ: softTopK.ts, of scores s_t = wᵀh_t
// Lei et al. 2023, arXiv 2304.04947, §3.
import { where as choose, full } from '../../core/ops/map.ts';
import { concat } from '../../core/ops/move.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { BASE, layer } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { between, wholeNumber } from '../check.ts';
import { bare } from '../site.ts';
import { ADAPTER, type AdapterConfig, type Bottleneck, checkBottleneck, newBottleneck, sizeOf, throughBottleneck } from './bottleneck.ts';
import { realTokens } from './reading.ts';
import { picked, type TopK } from './softTopK.ts';

export interface CodaConfig extends AdapterConfig, TopK {
  readonly tokens: number; // share of the tokens that are picked: k = ⌈tokens·n⌉
}

/**
 * The router learns through λ. Established are router, picks, soft top-k (ε from 4 by 0.7, 20 turns, last ε of 0.02 … 1 by task) and the
 * adapter beside the feed-forward. How λ multiplies is that of CoLT5 (the same authors, 2303.09752), and queries see the keys of all
 * tokens; w's start (here N(0, 1/d)) could not be verified. What is not picked is computed here and then left out: the saving is not
 * simulated. Picking reads the whole text, so it is for encoders, as in the paper. Adapter as `parallelAdapter`.
 * Count: 2md + 2d + m for each block.
 */
export const coda = defineMethod<'block', CodaConfig, Bottleneck & { readonly w: Tensor }>({
  name: 'coda',
  family: 'additive',
  paper: 'arXiv:2304.04947',
  at: 'block',
  defaults: { bottleneck: 64, reduction: 16, activation: 'relu', init: 'zero', tokens: 1 / 3, epsilon: 0.03, turns: 20, where: /./ },
  takes: ADAPTER,
  check: (site, c) => {
    checkBottleneck('coda', c);
    between('coda', 'tokens', c.tokens, Number.MIN_VALUE, 1, true);
    wholeNumber('coda', 'turns', c.turns);
    if (!(c.epsilon > 0)) throw new RangeError(`coda: epsilon ${c.epsilon} must be above 0`);
    if (bare(site.root).fields.causal === true)
      throw new Error(
        `coda at ${site.path}: which tokens are picked depends on the whole text, and in a decoder each token would learn of those after it; use an encoder`,
      );
  },
  init: (site, c, r) => {
    const d = site.dim('width');
    return { train: { ...newBottleneck(c, d, c.init, r), w: param(r.split('w').normal(d, 1 / Math.sqrt(d)), [1, d]) } };
  },
  around: (call, p, c, site) => (h, ctx) => {
    const [b, n] = h.shape as readonly [number, number, number];
    const s = h.matmul(p.w.T).reshape(b, n);
    const real = realTokens(h, ctx);
    const share = picked(real === null ? s : choose(real, s, -1e6), Math.ceil(c.tokens * n), c).reshape(b, n, 1);
    const routed = substitute(
      call,
      'branch',
      (l, path) =>
        layer('branch', { [BASE]: l }, ({ [BASE]: l }) => (x, at) => {
          const rows = x.shape[1]! - n; // that another method puts in front within the block: they are computed
          const y = l(x, at).mul(rows === 0 ? share : concat([full([b, rows, 1], 1), share], 1));
          return path.endsWith('.mlp') ? y.add(throughBottleneck(x, p, c.activation)) : y;
        }),
      site.path,
    );
    return routed(h, ctx);
  },
  count: (sites, c) => {
    const train = sites.reduce((n, s) => n + sizeOf(c, s.dim('width')) + s.dim('width'), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});
