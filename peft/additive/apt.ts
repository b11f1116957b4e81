// APT, adaptive prefix tuning: each layer weighs the rows of its prefix by what it hears, and its whole prefix against the text.
//   α_i = sigmoid(W_i h),   attend(q, [λ_i α_i ⊙ P_k,i; k], [λ_i α_i ⊙ P_v,i; v]) in block i;   h ∈ ℝ^d what enters it, W_i ∈ ℝ^{p×d}
// Zhang et al. 2023, arXiv 2305.15212, §3.
import { sigmoid } from '../../core/ops/map.ts';
import { reshape } from '../../core/ops/move.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { shifted } from '../../nn/context.ts';
import { type Pool, pool } from '../../nn/heads.ts';
import { BASE, layer } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { lengthFits, wholeNumber } from '../check.ts';
import type { Site } from '../site.ts';
import { newPrefix } from './prefix.ts';
import { attendWith, tableWidths } from './prefixAttention.ts';
import { readsWhole, realTokens, rowsBefore } from './reading.ts';

export interface AptConfig {
  readonly length: number; // p
  readonly reads: Exclude<Pool, 'last'>; // the vector h of a text: its first token's, or the mean
}
/** For each block: keys and values [p, Hk·D] in turn, the gate's W [p, d] and λ [1]. */
type Apt = Record<'table' | 'gate' | 'scale', readonly Tensor[]>;
/**
 * Read in extracts of the paper: each row of a prefix is scored by a gate, and a scale then weighs each layer's prefix against the text; in
 * notes on it: the gate reads what the layer below computed. The equation is from memory of it and not verified, nor are: of which token (an
 * option, the first by default), that the gate has no bias, and the start, here tables N(0, 1) as in P-tuning v2, W ~ U(±1/√d) and λ = 1. It
 * is for networks that understand text: in a language model later tokens would leak, or later steps of generation lack the gate. Positions
 * move as under any prefix. Count: L(2pHkD + pd + 1).
 */
export const apt = defineMethod<'trunk', AptConfig, Apt>({
  name: 'apt',
  family: 'additive',
  paper: 'arXiv:2305.15212',
  at: 'trunk',
  defaults: { length: 20, reads: 'first', where: 'trunk' },
  takes: { reads: ['first', 'mean'] },
  check: (site, c) => {
    lengthFits('apt', site, c.length);
    wholeNumber('apt', 'length', c.length);
    readsWhole('apt', site);
  },
  init: (site, { length: p }, r) => {
    const d = site.dim('width');
    const prefix = newPrefix(tableWidths(site), p, null, false, r);
    const blocks = site.within('attend');
    return {
      train: {
        table: 'table' in prefix ? prefix.table : [],
        gate: blocks.map((_, i) => param(r.split(`gate ${i}`).uniform(p * d, -1 / Math.sqrt(d), 1 / Math.sqrt(d)), [p, d])),
        scale: blocks.map(() => param([1], [1], { decay: false })),
      },
    };
  },
  around: (call, { table, gate, scale }, { length: p, reads }, site) => {
    const place = new Map(site.within('block').map((b) => [b.path, b.index]));
    const gated = substitute(
      call,
      'block',
      (l, path) => {
        const i = place.get(path);
        if (i === undefined) return null;
        return layer('block', { [BASE]: l }, ({ [BASE]: l }) => (h, ctx) => {
          const text = h.slice(1, rowsBefore(h, ctx));
          const alpha = sigmoid(pool(text, realTokens(text, ctx), reads).matmul(gate[i]!.T)).mul(scale[i]!); // [B, p]
          const weigh = (heads: Tensor): Tensor => heads.mul(reshape(alpha, [h.shape[0]!, 1, p, 1])); // [B, Hk, p, D]
          return substitute(l, 'attend', (a) => attendWith(a, table[2 * i]!, table[2 * i + 1]!, weigh), path)(h, ctx);
        });
      },
      site.path,
    );
    return (h, ctx) => gated(h, shifted(ctx, p));
  },
  count: (sites, { length: p }) => {
    const gates = (s: Site<'trunk'>): number => s.within('attend').length * (p * s.dim('width') + 1);
    const train = sites.reduce((n, s) => tableWidths(s).reduce((m, w) => m + p * w, n + gates(s)), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});
