// LoRA: a low-rank update beside a frozen linear layer.
//   y = W x + b + s·B A drop(x),   A ∈ ℝ^{r×in}, B ∈ ℝ^{out×r},   s = α/r, or α/√r (rank-stabilised)
// Hu et al. 2021, arXiv 2106.09685, §4.1; rank-stabilised scaling: Kalajdzievski 2023, arXiv 2312.03732.
import { dropout } from '../../core/ops/fused.ts';
import type { Rng } from '../../core/rng.ts';
import type { Shape } from '../../core/shape.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import { defineMethod } from '../attach.ts';
import { dropoutFits, rankFits } from '../check.ts';
import type { Method } from '../method.ts';
import type { Site } from '../site.ts';

export interface UpdateConfig {
  readonly rank: number;
  readonly alpha: number;
  readonly rankStabilized: boolean; // s = α/√r
  readonly dropout: number; // on x, on this branch only
}
export interface LoraConfig extends UpdateConfig {
  readonly init: 'kaiming' | 'gaussian'; // A ~ U(±1/√in), or N(0, 1/r²)
}
export const STARTS = ['kaiming', 'gaussian'] as const;
export type Factors = { A: Tensor; B: Tensor };

export const scaling = (c: Omit<UpdateConfig, 'dropout'>): number => c.alpha / (c.rankStabilized ? Math.sqrt(c.rank) : c.rank);

/** A random, B zero: the update starts at 0, and its first gradient goes to B alone. */
export const factors = (
  { shape: [out, into] }: { readonly shape: Shape },
  { rank, init }: Pick<LoraConfig, 'rank' | 'init'>,
  r: Rng,
): Factors => {
  const bound = 1 / Math.sqrt(into!);
  const A = init === 'gaussian' ? r.normal(rank * into!, 1 / rank) : r.uniform(rank * into!, -bound, bound);
  return { A: param(A, [rank, into!]), B: param(new Float32Array(out! * rank), [out!, rank]) };
};

/** The branch's input: x with a share of its elements dropped in training. */
export function dropped(x: Tensor, { dropout: p }: { readonly dropout: number }, { field }: Site<'linear'>, ctx: Context): Tensor {
  const mask = p === 0 ? null : ctx.draw.bernoulli(field, x.shape, 1 - p);
  return mask === null ? x : dropout(x, mask, 1 - p);
}

/** The refusals that LoRA and its relatives share. */
export const checkUpdate =
  (method: string) =>
  (site: Site<'linear'>, { rank, alpha, dropout: p }: UpdateConfig): void => {
    rankFits(method, site, rank);
    dropoutFits(method, p);
    if (!(alpha > 0)) throw new RangeError(`${method}: alpha ${alpha} must be positive; it is usually 1 or 2 times the rank`);
  };

/** The equation, its merge and its count: what initialisations of LoRA have in common. */
export const update: Pick<Required<Method<'linear', UpdateConfig, Factors>>, 'around' | 'fold' | 'count'> = {
  around:
    (call, { A, B }, c, site) =>
    (x, ctx) =>
      call(x, ctx).add(dropped(x, c, site, ctx).matmul(A.T).matmul(B.T).mul(scaling(c))),
  fold: ({ weight, bias }, { A, B }, c) => ({ weight: weight.add(B.matmul(A).mul(scaling(c))), bias }),
  count: (sites, { rank }) => {
    const train = sites.reduce((n, { shape: [out, into] }) => n + rank * (out! + into!), 0);
    return { train, stored: train };
  },
};

export const lora = defineMethod<'linear', LoraConfig, Factors>({
  name: 'lora',
  family: 'reparameterized',
  paper: 'arXiv:2106.09685',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, init: 'kaiming', where: ['q', 'v'] },
  takes: { init: STARTS },
  check: checkUpdate('lora'),
  init: (site, c, r) => ({ train: factors(site, c, r) }),
  ...update,
  byRow: true,
  startsAsBase: () => 'close', // adds an exact zero: equal, except that −0 may become 0
});
