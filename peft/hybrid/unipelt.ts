// UniPELT: LoRA on q and v, a prefix and an adapter, each behind a gate that reads what its submodule reads.
//   q = W_q x + g_q·B_q A_q x (v alike);   attend(q, [g_p P_k; k], [g_p P_v; v]);   y = h + g_a·(W_up σ(W_down h + b_down) + b_up), h = mlp(x)
//   g = sigmoid(w·x + b) of each token, or the mean of that over the tokens; the adapter's gate reads h
// Mao et al. 2022, arXiv 2110.07577, §3. Its parts: unipeltAttention.ts, unipeltAdapter.ts, unipeltGates.ts.
import { ADAPTER, checkBottleneck } from '../additive/bottleneck.ts';
import { flatten, newPrefixHidden, type PrefixHidden, prefixHiddenSize } from '../additive/prefix.ts';
import { defineMethod } from '../attach.ts';
import { rankFits, wholeNumber } from '../check.ts';
import type { Site } from '../site.ts';
import { type AdapterConfig, adapterSize, newOnFeedForward, type OnFeedForward, onFeedForward } from './unipeltAdapter.ts';
import { type AttentionConfig, attentionSize, newOnAttention, type OnAttention, onAttention, projections } from './unipeltAttention.ts';

export interface UnipeltConfig extends AdapterConfig, AttentionConfig {}

const isAttention = (s: Site<'branch'>): boolean => s.within('attend').length > 0;

/**
 * The authors' gates are means over an example's tokens, padding included (`gate: 'example'`). In a causal network a mean would let a
 * token see those after it, so there it is refused, and the default is a gate for each token. LoRA has no α: the gate is its scale.
 * The prefix does not move the text's positions. Gates start at w ~ N(0, 0.02²), b = 0.
 * Count: per attention r(in + out) + d + 1 for q and for v, and (m + 1)·2HkD + d + 1 for the prefix, with pd + dm + m once;
 * per feed-forward 2md + m + d + d + 1. A central gate has 2d + 2 in place of the three.
 */
export const unipelt = defineMethod<'branch', UnipeltConfig, OnAttention | OnFeedForward, PrefixHidden | null>({
  name: 'unipelt',
  family: 'hybrid',
  paper: 'arXiv:2110.07577',
  at: 'branch',
  defaults: {
    ...{ rank: 8, length: 10, prefixBottleneck: 512, gate: 'token', central: false },
    ...{ bottleneck: null, reduction: 16, activation: 'relu', init: 'bert', reads: 'answer' },
    where: ['attn', 'mlp'],
  },
  takes: { ...ADAPTER, gate: ['token', 'example'], reads: ['answer', 'sum'], prefixBottleneck: [null, Number] },
  check: (site, c) => {
    if (!isAttention(site)) return checkBottleneck('unipelt', c);
    if (!Number.isInteger(c.length) || c.length < 0)
      throw new RangeError(`unipelt: length ${c.length} must be a whole number, 0 for no prefix`);
    if (c.prefixBottleneck !== null) wholeNumber('unipelt', 'prefixBottleneck', c.prefixBottleneck);
    if (c.central && (c.rank === 0 || c.length === 0))
      throw new Error('unipelt: a central gate divides between LoRA and the prefix, and one of them is left out; set central: false');
    if (c.rank !== 0) for (const s of projections(site)) rankFits('unipelt', s, c.rank);
  },
  shared: (sites, c, r) =>
    c.length === 0 || c.prefixBottleneck === null || !sites.some(isAttention)
      ? null
      : newPrefixHidden(c.length, sites.find(isAttention)!.dim('width'), c.prefixBottleneck, r),
  init: (site, c, r, { shared }) => ({ train: isAttention(site) ? newOnAttention(site, c, r, shared) : newOnFeedForward(site, c, r) }),
  around: (call, p, c, site) => (x, ctx) => {
    if (c.gate === 'example' && ctx.causal)
      throw new Error(
        `unipelt at ${site.path}: a gate that is a mean over the tokens would let each token see those after it, and this network is causal; use gate: 'token'`,
      );
    return 'down' in p ? onFeedForward(call, p, c, site)(x, ctx) : onAttention(call, p, c, site, x)(x, ctx);
  },
  finish: (p) => {
    if ('down' in p) return p;
    const { lora, gateQ, gateV, gateP } = p;
    return { lora, gateQ, gateV, gateP, table: flatten(p) };
  },
  count: (sites, c) => {
    const attention = sites.filter(isAttention);
    const adapters = sites.filter((s) => !isAttention(s)).reduce((n, s) => n + adapterSize(s, c), 0);
    const m = c.length === 0 ? null : c.prefixBottleneck;
    const sum = (mlp: number | null): number => attention.reduce((n, s) => n + attentionSize(s, c, mlp), adapters);
    const once = m === null || attention.length === 0 ? 0 : prefixHiddenSize(c.length, attention[0]!.dim('width'), m);
    return { train: sum(m) + once, stored: sum(null) };
  },
  startsAsBase: (c) => (c.length === 0 && c.init === 'zero' ? 'close' : 'no'),
});
