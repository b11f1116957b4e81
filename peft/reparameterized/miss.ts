// MiSS: the input cut into pieces of length r, the pieces added up, and one small matrix applied to the sum.
//   y = W x + b + Mᵀ Σ_k x_k,   x = (x_1 … x_{in/r}) padded with zeros,   M ∈ ℝ^{r×out}, M = 0;   so ΔW = (Mᵀ Mᵀ … Mᵀ)
//   `miniRank` m: M ∈ ℝ^{r×m}, repeated out/m times
// Kang & Yin 2024, arXiv 2409.15371, §3 (earlier "Bone"; its form with the weight itself is `bone`). No α.
import { concat, pad } from '../../core/ops/move.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { dropoutFits, wholeNumber } from '../check.ts';
import { dropped } from './lora.ts';

export interface MissConfig {
  readonly rank: number; // r, at most the input's width
  readonly miniRank: number | null; // m, a divisor of the output's width; null: the whole width
  readonly dropout: number; // on x, on this branch only
}
/** [.., n] repeated along the last dimension. */
const tiled = (t: Tensor, times: number): Tensor => (times === 1 ? t : concat(Array<Tensor>(times).fill(t), -1));

export const miss = defineMethod<'linear', MissConfig, { M: Tensor }>({
  name: 'miss',
  family: 'reparameterized',
  paper: 'arXiv:2409.15371',
  at: 'linear',
  defaults: { rank: 64, miniRank: null, dropout: 0, where: ['q', 'v'] },
  takes: { miniRank: [null, Number] },
  check: ({ path, shape: [out, into] }, { rank, miniRank, dropout }) => {
    wholeNumber('miss', 'rank', rank);
    if (rank > into!) throw new RangeError(`miss: rank ${rank} at ${path} is above the input's width ${into}; choose at most that`);
    if (miniRank !== null) wholeNumber('miss', 'miniRank', miniRank);
    if (out! % (miniRank ?? 1) !== 0) throw new RangeError(`miss: miniRank ${miniRank} at ${path} must divide the output's width ${out}`);
    dropoutFits('miss', dropout);
  },
  init: ({ shape: [out] }, { rank, miniRank }) => {
    const wide = miniRank ?? out!;
    return { train: { M: param(new Float32Array(rank * wide), [rank, wide]) } };
  },
  around:
    (call, { M }, c, site) =>
    (x, ctx) => {
      const [out, into] = site.shape as [number, number];
      const pieces = Math.ceil(into / c.rank);
      const full = pad(dropped(x, c, site, ctx), x.shape.length - 1, 0, pieces * c.rank - into);
      const sum = full.reshape(...x.shape.slice(0, -1), pieces, c.rank).sum([-2]); // [B, T, r]
      return call(x, ctx).add(sum.matmul(tiled(M, out / M.shape[1]!)));
    },
  fold: ({ weight, bias }, { M }, { rank }) => {
    const [out, into] = weight.shape as [number, number];
    const change = tiled(tiled(M, out / M.shape[1]!).T, Math.ceil(into / rank)).slice(1, 0, into);
    return { weight: weight.add(change), bias };
  },
  count: (sites, { rank, miniRank }) => {
    const train = sites.reduce((n, { shape: [out] }) => n + rank * (miniRank ?? out!), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
