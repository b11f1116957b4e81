// LoRA on an embedding: a low-rank update of what a table of vectors answers.
//   y = E_t + s·B A_{:,t},   E ∈ ℝ^{V×d}, A ∈ ℝ^{r×V}, B ∈ ℝ^{d×r},   A = 0 and B ~ N(0, 1) at the start,   s = α/r, or α/√r
// LoRA (Hu et al. 2021, arXiv 2106.09685) as loralib and Hugging Face PEFT have it for embeddings. Only the columns of A whose tokens are in a text
// take part, so no product has the size of the vocabulary. A head that shares the table keeps it: the lookup changes, not the table. Merged,
// the embedding has a table of its own. Count: r(V + d).
import { gather } from '../../core/ops/index.ts';
import { param } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { rankFits } from '../check.ts';
import { type Factors, scaling, type UpdateConfig } from './lora.ts';

export type LoraEmbeddingConfig = Omit<UpdateConfig, 'dropout'>; // words have no features to drop

/** `where` may name any table: `'positions'` and BERT's `'types'` too. */
export const loraEmbedding = defineMethod<'embedding', LoraEmbeddingConfig, Factors>({
  name: 'loraEmbedding',
  family: 'reparameterized',
  paper: 'arXiv:2106.09685',
  at: 'embedding',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, where: 'embed' },
  leavesTied: true,
  check: (site, { rank, alpha }) => {
    rankFits('loraEmbedding', site, rank);
    if (!(alpha > 0)) throw new RangeError(`loraEmbedding: alpha ${alpha} must be positive; it is usually 1 or 2 times the rank`);
  },
  init: ({ shape: [rows, width] }, { rank }, r) => ({
    train: { A: param(new Float32Array(rank * rows!), [rank, rows!]), B: param(r.normal(width! * rank), [width!, rank]) },
  }),
  around: (call, { A, B }, c, site) => {
    const first = site.dim('offset'); // the row of id 0
    return (ids, ctx) => {
      const column = gather(A.T, first === 0 ? ids : ids.add(first)); // [B, T, r]
      return call(ids, ctx).add(column.matmul(B.T).mul(scaling(c)));
    };
  },
  fold: ({ weight, bias }, { A, B }, c) => ({ weight: weight.add(A.T.matmul(B.T).mul(scaling(c))), bias }),
  count: (sites, { rank }) => {
    const train = sites.reduce((n, { shape: [rows, width] }) => n + rank * (rows! + width!), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero: equal, except that −0 may become 0
});
