// The feed-forward part of MixLoRA: the frozen network as E experts, each with low-rank updates of its own; a router sends every token to the
// best K.
//   y = Σ_{e ∈ top K} ĝ_e(x) FFN_e(x),   FFN_e: every layer of it W x + b + s·B_e A_e x, s = α/r;   ĝ: topRouter.ts
// Li et al. 2024, arXiv 2404.15159, §3. One expert: mixloraExpert.ts.
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between, wholeNumber } from '../check.ts';
import { checkUpdate } from '../reparameterized/lora.ts';
import type { Site } from '../site.ts';
import { expertOf, inside, type MixloraConfig } from './mixloraExpert.ts';
import { newRouter } from './router.ts';
import { routed } from './topRouter.ts';

/** A [r, in] and B [out, r] of expert 0 at every layer, then expert 1, …; router [E, d]. */
type Experts = { readonly A: readonly Tensor[]; readonly B: readonly Tensor[]; readonly router: Tensor };

/**
 * The feed-forward part of MixLoRA. The choice depends on the token, so it cannot be merged. All experts are computed here and K are
 * heard: the same numbers as the authors' dispatch, without its saving. With K = 1 the one share is 1, and only the balance loss trains W_r.
 * The balance loss is taken layer by layer and over all positions; the authors take it once over the tokens of all layers, padding left
 * out. K = 2 and W_r ~ N(0, 0.02²) are the authors' code's; it falls back to a weight of 0.001 where the paper has 0.01. E = 8, r = 16 and
 * α = 32 are those of their training template, which drops 5 % of each update's input (here none) at lr 2e-4. A ~ U(±1/√in), B = 0.
 * Count per feed-forward: E·Σ r(in + out) over its layers, and E·d.
 */
export const mixloraExperts = defineMethod<'branch', MixloraConfig, Experts>({
  name: 'mixloraExperts',
  family: 'additive',
  paper: 'arXiv:2404.15159',
  at: 'branch',
  defaults: { experts: 8, topK: 2, rank: 16, alpha: 32, dropout: 0, balance: 0.01, where: 'mlp' },
  check: (site, c) => {
    wholeNumber('mixlora', 'experts', c.experts);
    wholeNumber('mixlora', 'topK', c.topK);
    if (c.topK > c.experts) throw new RangeError(`mixlora: topK ${c.topK} of ${c.experts} experts; choose at most as many as there are`);
    between('mixlora', 'balance', c.balance, 0, Number.MAX_VALUE);
    for (const s of inside(site)) checkUpdate('mixlora')(s, { ...c, rankStabilized: false });
  },
  init: (site, { experts, rank }, r) => {
    const each = Array.from({ length: experts }, (_, e) =>
      inside(site).map((s) => ({ shape: s.shape, r: r.split(`${e} ${s.path}`) })),
    ).flat();
    return {
      train: {
        A: each.map(({ shape: [, n], r: own }) => param(own.uniform(rank * n!, -1 / Math.sqrt(n!), 1 / Math.sqrt(n!)), [rank, n!])),
        B: each.map(({ shape: [out] }) => param(new Float32Array(out! * rank), [out!, rank])),
        router: newRouter(experts, site.dim('width'), r),
      },
    };
  },
  around: (call, { A, B, router }, c, site) => {
    const experts = Array.from({ length: c.experts }, (_, e) => expertOf(call, e, A, B, c, site));
    return (x, ctx) => {
      const g = routed(x, router, c, ctx, site.path);
      return experts.map((f, e) => f(x, ctx).mul(g.slice(-1, e, e + 1))).reduce((a, b) => a.add(b));
    };
  },
  count: (sites, { experts, rank }) => {
    const each = (s: Site<'branch'>): number => inside(s).reduce((n, { shape: [out, into] }) => n + rank * (out! + into!), s.dim('width'));
    const train = sites.reduce((n, s) => n + experts * each(s), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // Σ ĝ = 1 up to rounding
});
