// SMoP, a sparse mixture of prompts: several short prompts, of which a router gives each text the one it prefers.
//   g = softmax(W_r mean(embed(x))),   e = argmax g,   P(x) = g_e P_e;   in training W_r … ⊙ (1 + σ n), n ~ N(0, 1)
// Choi et al. 2023, "SMoP: Towards Efficient and Effective Prompt Tuning with Sparse Mixture-of-Prompts", EMNLP, §3; the authors' code.
import { gather } from '../../core/ops/index.ts';
import { mul, stopGradient } from '../../core/ops/map.ts';
import { reshape } from '../../core/ops/move.ts';
import { argmax, maxOver } from '../../core/ops/reduce.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between, lengthFits, wholeNumber } from '../check.ts';
import { orthonormal, transposed } from '../linalg.ts';
import { promptInFront } from './promptRows.ts';
import { meanOverText, readsWhole } from './reading.ts';
import { type RouterConfig, shares } from './router.ts';

export interface SmopConfig extends RouterConfig {
  readonly length: number; // l of each prompt
  readonly noise: number; // σ, relative to the router's scores, in training
}
/** P [k, l·d], a prompt in each row. */
type Smop = { readonly P: Tensor; readonly router: Tensor };

/**
 * A text costs a prompt of l rows however many there are. Defaults are the authors': 4 prompts of 5, σ = 1, balance loss with weight 0.01
 * (experts in `router.ts` are the prompts), router rows orthonormal at first, prompts N(0, 1). Which prompt is preferred has no derivative;
 * the router learns through g_e. Count: k·l·d + k·d.
 */
export const smop = defineMethod<'trunk', SmopConfig, Smop>({
  name: 'smop',
  family: 'additive',
  paper: 'https://aclanthology.org/2023.emnlp-main.884',
  at: 'trunk',
  defaults: { experts: 4, length: 5, noise: 1, balance: 0.01, where: 'trunk' },
  check: (site, c) => {
    lengthFits('smop', site, c.length);
    for (const name of ['experts', 'length'] as const) wholeNumber('smop', name, c[name]);
    if (c.experts > site.dim('width'))
      throw new RangeError(
        `smop: experts ${c.experts} at ${site.path}, but only ${site.dim('width')}, its width, can have orthonormal routes; use fewer`,
      );
    for (const name of ['noise', 'balance'] as const) between('smop', name, c[name], 0, Number.MAX_VALUE);
    readsWhole('smop', site);
  },
  init: (site, { experts: k, length: l }, r) => {
    const d = site.dim('width');
    return {
      train: {
        P: param(r.split('P').normal(k * l * d), [k, l * d]),
        router: param(transposed(orthonormal(r.split('router').normal(d * k), d, k), d, k), [k, d]),
      },
    };
  },
  around:
    (call, { P, router }, c, site) =>
    (h, ctx) => {
      const [b, , d] = h.shape as readonly [number, number, number];
      const scores = meanOverText(h, ctx).matmul(router.T); // [B, k]
      const n = c.noise === 0 ? null : ctx.draw.normal(site.field, scores.shape);
      const noisy = n === null ? scores : scores.add(mul(stopGradient(scores), n).mul(c.noise));
      const g = shares(noisy, c, ctx, site.path);
      const chosen = reshape(gather(P, stopGradient(argmax(g))), [b, c.length, d]);
      return promptInFront(call, chosen.mul(reshape(maxOver(g, [1]), [b, 1, 1])))(h, ctx);
    },
  count: (sites, { experts: k, length: l }) => {
    const train = sites.reduce((n, s) => n + k * (l + 1) * s.dim('width'), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});
