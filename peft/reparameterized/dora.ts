// DoRA: a weight as length and direction, the direction moved by LoRA and the lengths trained.
//   W' = diag(m/n) V,   V = W + s·B A,   n = sg(‖V‖ by output row),   m starts as ‖W‖ by row
//   y = W x + b + (m/n − 1)·W x̃ + (m/n)·s·B A x̃,   x̃ = drop(x); the bias is not scaled
// Liu et al. 2024, arXiv 2402.09353, §4.1 (whose "columns" are these rows) and §4.3 (n is a constant for the gradient).
import { div, max, mul, sqrt, square, stopGradient } from '../../core/ops/map.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { rowLengths } from '../linalg.ts';
import { effective } from '../site.ts';
import { checkUpdate, dropped, factors, type LoraConfig, STARTS, scaling, update } from './lora.ts';

export interface NormConfig {
  readonly norm: 'constant' | 'differentiated'; // n for the gradient: §4.3's shortcut, or a function of V as it is in the equation
}
/** m/n for a direction V [out, in]: [out]. A row of zeros has no direction and gets 0, not 0/0. */
export const stretch = (v: Tensor, m: Tensor): Tensor => div(m, stopGradient(max(sqrt(square(v).sum([1])), 1e-12)));

/** ‖V‖ by row for V = W + B A, [out]: ‖V‖² = ‖W‖² + (2 W Aᵀ + B A Aᵀ)·B, so that no gradient has the size of W. */
export function movedLengths(weight: Tensor, A: Tensor, B: Tensor): Tensor {
  const half = weight.matmul(mul(A.T, 2)).add(B.matmul(A.matmul(A.T))); // [out, r]
  const change = half.mul(B).sum([1]);
  return sqrt(max(square(weight).sum([1]).add(change), 1e-24));
}

export const dora = defineMethod<'linear', LoraConfig & NormConfig, { A: Tensor; B: Tensor; m: Tensor }>({
  name: 'dora',
  family: 'reparameterized',
  paper: 'arXiv:2402.09353',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, init: 'kaiming', norm: 'constant', where: ['q', 'v'] },
  takes: { init: STARTS, norm: ['constant', 'differentiated'] },
  readsWeight: true,
  check: checkUpdate('dora'),
  init: (site, c, r, { weight }) => {
    const [out, into] = site.shape as [number, number];
    return { train: { ...factors(site, c, r), m: param(rowLengths(weight(), out, into), [out], { decay: false }) } };
  },
  around:
    (call, { A, B, m }, c, site) =>
    (x, ctx) => {
      const { weight, bias } = effective(call, site.path, ctx);
      const k = // [out]
        c.norm === 'constant' ? stretch(weight.add(B.matmul(A).mul(scaling(c))), m) : div(m, movedLengths(weight, A, B.mul(scaling(c))));
      const kept = dropped(x, c, site, ctx);
      const y = call(x, ctx);
      const straight = kept !== x ? kept.matmul(weight.T) : bias === null ? y : y.sub(bias); // W x̃
      return y.add(k.sub(1).mul(straight)).add(k.mul(kept.matmul(A.T).matmul(B.T).mul(scaling(c))));
    },
  fold: ({ weight, bias }, { A, B, m }, c) => {
    const v = weight.add(B.matmul(A).mul(scaling(c)));
    return { weight: stretch(v, m).reshape(-1, 1).mul(v), bias };
  },
  count: (sites, c) => {
    const train = update.count(sites, c).train + sites.reduce((n, { shape: [out] }) => n + out!, 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // m/n = 1 up to rounding
});
