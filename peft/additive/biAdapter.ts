// BI-Adapter: a parallel adapter whose weights are of one bit: trained through rounding, stored as bits.
//   y = branch(x) + s·Ŵ_up drop(relu(Ŵ_down h)),   h the residual stream;   Ŵ = σ_w·c(w̄) + μ_w,   w̄ = (w − μ_w)/(σ_w + 1e-5)
//   c(w̄) the nearest of 2ᵇ levels, the medians of the cells they make in N(0, 1): ±0.6745 for one bit;   ∂c/∂w̄ counts as 1
// Jie et al. 2023, arXiv 2307.16867, §4, on AdaptFormer; levels, starts and dropout as in the authors' code. Their Bi-LoRA is left out.

import { dropout } from '../../core/ops/fused.ts';
import { relu } from '../../core/ops/map.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { bytesFor, type FewBits } from '../../quant/bits.ts';
import { defineMethod } from '../attach.ts';
import { dropoutFits, wholeNumber } from '../check.ts';
import { truncatedNormal } from './bottleneck.ts';
import { rounded, shrunk } from './fewBits.ts';
import { streamOf } from './residualStream.ts';

export interface BiAdapterConfig {
  readonly bottleneck: number; // m
  readonly bits: FewBits;
  readonly scale: number; // s
  readonly dropout: number; // of the hidden layer
}
/** Weights [m, d] and [d, m]; finished, their bits as bytes and (σ, μ) of each. */
type Bi = { down: Tensor; up: Tensor; downStats?: Tensor; upStats?: Tensor };

/**
 * m = 32 and one bit as in the paper (m = 1 is its smallest); s is searched for each task. W_down ~ U(±1/√d), W_up normal with std 0.001 cut at
 * two of it. Count: 2md for each block; stored, their bits in bytes and two numbers for each matrix.
 */
export const biAdapter = defineMethod<'branch', BiAdapterConfig, Bi>({
  name: 'biAdapter',
  family: 'additive',
  paper: 'arXiv:2307.16867',
  at: 'branch',
  defaults: { bottleneck: 32, bits: 1, scale: 1, dropout: 0.1, where: 'mlp' },
  takes: { bits: [1, 2, 4] },
  check: (_, c) => {
    wholeNumber('biAdapter', 'bottleneck', c.bottleneck);
    dropoutFits('biAdapter', c.dropout);
  },
  init: (site, { bottleneck: m }, r) => {
    const d = site.dim('width');
    return {
      train: {
        down: param(r.split('down').uniform(m * d, -1 / Math.sqrt(d), 1 / Math.sqrt(d)), [m, d]),
        up: param(truncatedNormal(r.split('up'), d * m, 0.001), [d, m]),
      },
    };
  },
  around:
    (call, p, { bottleneck: m, bits, scale, dropout: rate }, site) =>
    (x, ctx) => {
      const h = streamOf(ctx, 'biAdapter', site.path); // [B, T, d]
      const d = h.shape.at(-1)!;
      const hidden = relu(h.matmul(rounded(p.down, bits, p.downStats, [m, d]).T));
      const mask = rate === 0 ? null : ctx.draw.bernoulli(site.field, hidden.shape, 1 - rate);
      const kept = mask === null ? hidden : dropout(hidden, mask, 1 - rate);
      return call(x, ctx).add(kept.matmul(rounded(p.up, bits, p.upStats, [d, m]).T).mul(scale));
    },
  finish: ({ down, up }, { bits }) => {
    const [[downBytes, downStats], [upBytes, upStats]] = [shrunk(down, bits), shrunk(up, bits)];
    return { down: downBytes, downStats, up: upBytes, upStats };
  },
  count: (sites, { bottleneck: m, bits }) => ({
    train: sites.reduce((n, s) => n + 2 * m * s.dim('width'), 0),
    stored: sites.reduce((n, s) => n + 2 * (bytesFor(m * s.dim('width'), bits) + 2), 0),
  }),
  startsAsBase: () => 'no',
});
