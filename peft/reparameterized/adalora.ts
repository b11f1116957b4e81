// AdaLoRA: LoRA as triplets of a singular value decomposition, with a budget of triplets shared out among all layers (adaloraBudget.ts).
//   y = W x + b + s·P Λ Q x̃,   code names B = P [out, k], E = diag Λ [k, 1], A = Q [k, in],   s = α/(k + 1e-5),   x̃ = drop(x)
//   penalty γ·mean(‖A Aᵀ − I‖_F, ‖Bᵀ B − I‖_F);   after each step the triplets of least importance are masked, E_j ← 0
// Zhang et al. 2023, arXiv 2303.10512, §3.
import { iota, oneHot } from '../../core/ops/index.ts';
import { max, sqrt, square } from '../../core/ops/map.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between, wholeNumber } from '../check.ts';
import { type Adalora, type BudgetConfig, importance, sharedBudget } from './adaloraBudget.ts';
import { checkUpdate, dropped } from './lora.ts';

export interface AdaloraConfig extends BudgetConfig {
  readonly alpha: number;
  readonly dropout: number; // on x, on this branch only
  readonly orthogonality: number; // γ, times the mean of ‖AAᵀ − I‖_F and ‖BᵀB − I‖_F (the paper: their squares, summed)
}
const scale = (c: AdaloraConfig): number => c.alpha / (c.rank + 1e-5);
const buffer = (n: number, m: number, value = 0): Tensor => param(new Float32Array(n * m).fill(value), [n, m], { active: false });

/** ‖M Mᵀ − I‖_F, with the subgradient 0 where the rows are orthonormal. */
const skew = (m: Tensor): Tensor => sqrt(max(square(m.matmul(m.T).sub(oneHot(iota(m.shape[0]!), m.shape[0]!))).sum(), 1e-30));

export const adalora = defineMethod<'linear', AdaloraConfig, Adalora>({
  name: 'adalora',
  family: 'reparameterized',
  paper: 'arXiv:2303.10512',
  at: 'linear',
  defaults: {
    ...{ rank: 12, targetRank: 8, alpha: 8, dropout: 0, tinit: 0, tfinal: 0, deltaT: 1, beta1: 0.85, beta2: 0.85, orthogonality: 0.5 },
    where: ['q', 'v'],
  },
  check: (site, c) => {
    checkUpdate('adalora')(site, { ...c, rankStabilized: false });
    for (const name of ['targetRank', 'deltaT'] as const) wholeNumber('adalora', name, c[name]);
    between('adalora', 'targetRank', c.targetRank, 1, c.rank, true); // the budget shrinks
    for (const name of ['beta1', 'beta2'] as const) between('adalora', name, c[name], 0, 1);
    for (const name of ['tinit', 'tfinal'] as const) wholeNumber('adalora', name, c[name], 0);
    between('adalora', 'orthogonality', c.orthogonality, 0, Number.MAX_VALUE);
  },
  init: ({ shape: [out, into] }, { rank: k }, r) => ({
    train: {
      A: param(r.split('A').normal(k * into!, 0.02), [k, into!]),
      E: param(new Float32Array(k), [k, 1]),
      B: param(r.split('B').normal(out! * k, 0.02), [out!, k]),
    },
    buffer: {
      average: [buffer(k, into!), buffer(k, 1), buffer(out!, k)],
      spread: [buffer(k, into!), buffer(k, 1), buffer(out!, k)],
      score: buffer(k, 1),
      kept: buffer(k, 1, 1),
    },
  }),
  around:
    (call, { A, E, B }, c, site) =>
    (x, ctx) =>
      call(x, ctx).add(dropped(x, c, site, ctx).matmul(A.mul(E).T).matmul(B.T).mul(scale(c))),
  fold: ({ weight, bias }, { A, E, B }, c) => ({ weight: weight.add(B.matmul(A.mul(E)).mul(scale(c))), bias }),
  hooks: (p, c, site) => ({
    penalty: () =>
      skew(p.A)
        .add(skew(p.B.T))
        .mul(c.orthogonality / (2 * site.of)), // the mean over all A and B
    afterStep: (step) => importance(p, c, step),
  }),
  control: sharedBudget,
  finish: ({ A, E, B }) => ({ A, E, B }),
  count: (sites, { rank }) => {
    const train = sites.reduce((n, { shape: [out, into] }) => n + rank * (out! + into! + 1), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
