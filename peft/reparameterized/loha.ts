// LoHa: the update of a weight as the entrywise product of two low-rank matrices, so that its rank may reach r².
//   y = W x + b + s·((A₁ B₁) ⊙ (A₂ B₂)) x,   Aᵢ ∈ ℝ^{out×r}, Bᵢ ∈ ℝ^{r×in}, s = α/r
// Hyeon-Woo et al. 2021 (FedPara), arXiv 2108.06098, §2.1; for fine-tuning: Yeh et al. 2023 (LyCORIS), arXiv 2309.14859.
import type { Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { checkLycoris, kaiming, keptRows, type LycorisConfig, zeros } from './lycoris.ts';

type Loha = { A1: Tensor; B1: Tensor; A2: Tensor; B2: Tensor };

/** ΔW [out, in], for merging. */
const change = ({ A1, B1, A2, B2 }: Loha, s: number): Tensor => A1.matmul(B1).mul(A2.matmul(B2)).mul(s);
/** ΔW x without ΔW: (A₁B₁) ⊙ (A₂B₂) = A B with columns A₁[:, p] ⊙ A₂[:, q] and rows B₁[p] ⊙ B₂[q], as LoRA of rank r². */
function through(x: Tensor, { A1, B1, A2, B2 }: Loha, s: number): Tensor {
  const [[out, r], [, into]] = [A1.shape, B1.shape] as [[number, number], [number, number]];
  const a = A1.reshape(out, r, 1)
    .mul(A2.reshape(out, 1, r))
    .reshape(out, r * r);
  const b = B1.reshape(r, 1, into)
    .mul(B2.reshape(1, r, into))
    .reshape(r * r, into);
  return x.matmul(b.T).matmul(a.T).mul(s);
}

/**
 * Defaults as PEFT's: rank 8, alpha 8, on q and v. A₁, B₁ and A₂ start Kaiming-uniform and B₂ at 0, so that ΔW = 0; B₂ alone gets
 * a gradient at first. Dropped rows are made up for by the others (`rankDropout`). Count: 2r(in + out).
 */
export const loha = defineMethod<'linear', LycorisConfig, Loha>({
  name: 'loha',
  family: 'reparameterized',
  paper: 'arXiv:2108.06098',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankDropout: 0, moduleDropout: 0, where: ['q', 'v'] },
  check: (site, c) => checkLycoris('loha', site, c),
  init: ({ shape: [out, into] }, { rank }, r) => ({
    train: {
      A1: kaiming([out!, rank], r.split('A1')),
      B1: kaiming([rank, into!], r.split('B1')),
      A2: kaiming([out!, rank], r.split('A2')),
      B2: zeros([rank, into!]),
    },
  }),
  around: (call, p, c, site) => (x, ctx) => call(x, ctx).add(keptRows(through(x, p, c.alpha / c.rank), c, site, ctx, true)),
  fold: ({ weight, bias }, p, c) => ({ weight: weight.add(change(p, c.alpha / c.rank)), bias }),
  count: (sites, { rank }) => {
    const train = sites.reduce((n, { shape: [out, into] }) => n + 2 * rank * (out! + into!), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
