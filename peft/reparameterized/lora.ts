// LoRA: a low-rank update beside a frozen linear layer.
//   y = W x + b + s·B A drop(x),   A ∈ ℝ^{r×in}, B ∈ ℝ^{out×r},   s = α/r, or α/√r (rank-stabilised)
// Hu et al. 2021, arXiv 2106.09685, §4.1; rank-stabilised scaling: Kalajdzievski 2023, arXiv 2312.03732.
import { dropout } from '../../core/ops/fused.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { rankFits } from '../check.ts';

export interface LoraConfig {
  readonly rank: number;
  readonly alpha: number;
  readonly rankStabilized: boolean; // s = α/√r
  readonly dropout: number; // on x, on this branch only
  readonly init: 'kaiming' | 'gaussian'; // A ~ U(±1/√in), or N(0, 1/r²)
}
export const scaling = (c: Pick<LoraConfig, 'rank' | 'alpha' | 'rankStabilized'>): number =>
  c.alpha / (c.rankStabilized ? Math.sqrt(c.rank) : c.rank);

export const lora = defineMethod<'linear', LoraConfig, { A: Tensor; B: Tensor }>({
  name: 'lora',
  family: 'reparameterized',
  paper: 'arXiv:2106.09685',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, init: 'kaiming', where: ['q', 'v'] },
  check: (site, c) => rankFits('lora', site, c.rank),
  init: ({ shape: [out, into] }, { rank, init }, r) => ({
    train: {
      A: param(
        init === 'gaussian' ? r.normal(rank * into!, 1 / rank) : r.uniform(rank * into!, -1 / Math.sqrt(into!), 1 / Math.sqrt(into!)),
        [rank, into!],
      ),
      B: param(new Float32Array(out! * rank), [out!, rank]),
    },
  }),
  around:
    (call, { A, B }, c) =>
    (x, ctx) => {
      const mask = c.dropout === 0 ? null : ctx.draw.bernoulli('lora', x.shape, 1 - c.dropout);
      const kept = mask === null ? x : dropout(x, mask, 1 - c.dropout);
      return call(x, ctx).add(kept.matmul(A.T).matmul(B.T).mul(scaling(c)));
    },
  fold: ({ weight, bias }, { A, B }, c) => ({ weight: weight.add(B.matmul(A).mul(scaling(c))), bias }),
  count: (sites, { rank }) => {
    const train = sites.reduce((n, { shape: [out, into] }) => n + rank * (out! + into!), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero: equal, except that −0 may become 0
});
