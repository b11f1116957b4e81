// DyLoRA: LoRA trained at all ranks at once, so that it can be cut to any of them afterwards.
//   each step b ~ U{r_min … r};   y = W x + b₀ + (α/b)·B[:, :b] A[:b] x̃,   x̃ = drop(x);   `frozen`: of these, only row and column b learn
//   `ranks`: b is one of these instead (QDyLoRA's "pre-defined ranks", Rajabzadeh et al. 2024, arXiv 2402.10462)
// Valipour et al. 2022, arXiv 2210.07558, §4 (algorithm 1). One b for all layers of a step.
import { iota } from '../../core/ops/index.ts';
import { div, eq, lt, stopGradient, where } from '../../core/ops/map.ts';
import type { Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between, wholeNumber } from '../check.ts';
import { drawn } from './dyloraDraw.ts';
import { checkUpdate, dropped, type Factors, factors, type LoraConfig, STARTS, update } from './lora.ts';

export interface DyloraConfig extends Omit<LoraConfig, 'rankStabilized'> {
  readonly rankMin: number;
  readonly ranks: readonly number[] | null; // null: all from rankMin to rank
  readonly frozen: boolean;
  readonly inferenceRank: number | null; // the b of evaluation and merging; null: all of them
}

export const cut = ({ A, B }: Factors, b: number): Factors => ({ A: A.slice(0, 0, b), B: B.slice(1, 0, b) });

/** Row and column b as they are, the others held. */
const only = ({ A, B }: Factors, last: Tensor): Factors => ({
  A: where(last.reshape(-1, 1), A, stopGradient(A)),
  B: where(last, B, stopGradient(B)),
});

export const dylora = defineMethod<'linear', DyloraConfig, Factors>({
  name: 'dylora',
  family: 'reparameterized',
  paper: 'arXiv:2210.07558',
  at: 'linear',
  defaults: {
    rank: 8,
    rankMin: 1,
    ranks: null,
    alpha: 8,
    dropout: 0,
    init: 'kaiming',
    frozen: false,
    inferenceRank: null,
    where: ['q', 'v'],
  },
  takes: { init: STARTS, ranks: [null, Array], inferenceRank: [null, Number] },
  check: (site, c) => {
    checkUpdate('dylora')(site, { ...c, rankStabilized: false });
    for (const b of c.ranks ?? []) between('dylora', 'each of ranks', b, 1, c.rank, true);
    if (c.ranks?.length === 0 || c.ranks?.some((b) => !Number.isInteger(b)))
      throw new RangeError(`dylora: ranks [${c.ranks.join(', ')}] must name whole numbers, at least one`);
    for (const [name, v] of Object.entries({ rankMin: c.rankMin, inferenceRank: c.inferenceRank ?? c.rank })) {
      wholeNumber('dylora', name, v);
      between('dylora', name, v, 1, c.rank, true);
    }
  },
  init: (site, c, r) => ({ train: factors(site, c, r) }),
  around: (call, p, c, site) => (x, ctx) => {
    const b = drawn(c, site.field, ctx);
    const kept = dropped(x, c, site, ctx);
    if (b === null) {
      const { A, B } = cut(p, c.inferenceRank ?? c.rank);
      return call(x, ctx).add(
        kept
          .matmul(A.T)
          .matmul(B.T)
          .mul(c.alpha / (c.inferenceRank ?? c.rank)),
      );
    }
    const ranks = iota(c.rank);
    const { A, B } = c.frozen ? only(p, eq(ranks, b.sub(1))) : p;
    return call(x, ctx).add(kept.matmul(A.T).mul(lt(ranks, b)).matmul(B.T).mul(div(c.alpha, b)));
  },
  fold: ({ weight, bias }, p, c) => {
    const { A, B } = cut(p, c.inferenceRank ?? c.rank);
    return { weight: weight.add(B.matmul(A).mul(c.alpha / (c.inferenceRank ?? c.rank))), bias };
  },
  count: (sites, c) => update.count(sites, { ...c, rankStabilized: false }),
  startsAsBase: () => 'close', // adds an exact zero
});
