// LoftQ: LoRA that starts as the best low-rank correction of what quantisation lost, found by turns with the quantised weight.
//   R₀ = W;  for t = 1 … T:  Q_t = quantised R_{t−1},  s·B_tA_t = best rank r of W − Q_t,  R_t = W − s·B_tA_t;  the t of least ‖W − Q − s·BA‖ is kept
//   y = Q x + b + s·B A drop(x),   Q stored packed;   B = U √(S/s), A = √(S/s) Vᵀ
// Li et al. 2023, arXiv 2310.08659, algorithm 1 (T = 5 in the paper). The authors do not divide by s and need α = r for it; the two agree there.
import type { Rng } from '../../core/rng.ts';
import { type Data, param } from '../../core/tensor.ts';
import type { Layer } from '../../nn/layer.ts';
import { nf4 } from '../../quant/nf4.ts';
import type { Scheme } from '../../quant/quantize.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import type { Site } from '../site.ts';
import { alternate } from './loftqSplit.ts';
import { type Factors, scaling, type UpdateConfig, update } from './lora.ts';
import { checkTaken, halved } from './residual.ts';

export interface LoftqConfig extends UpdateConfig {
  readonly scheme: Scheme; // how Q is packed
  readonly iterations: number; // T
  readonly power: number | null; // power iterations of a randomised factorisation; null: exact
}

/** What a layer starts from: LoRA's factors and the packed weight. */
export function started(
  { shape }: Pick<Site<'linear'>, 'shape'>,
  w: Data,
  c: LoftqConfig,
  r: Rng,
): { own: Factors; packed: Layer<'weight'> } {
  const [out, into] = shape as [number, number];
  const { kept, change } = alternate(w, out, into, c, r);
  const { a, b } = halved(change.u, change.s, change.vt, scaling(c));
  return { own: { A: param(a, [c.rank, into]), B: param(b, [out, c.rank]) }, packed: c.scheme.pack(kept, shape) };
}

export const DEFAULTS: LoftqConfig = { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, scheme: nf4(), iterations: 5, power: null };

/** The weight it replaces stays reachable, for `detach`; `loftqModel` (loftqModel.ts) lets go of it. Count: r(in + out). */
export const loftq = defineMethod<'linear', LoftqConfig, Factors>({
  name: 'loftq',
  family: 'reparameterized',
  paper: 'arXiv:2310.08659',
  at: 'linear',
  defaults: { ...DEFAULTS, where: ['q', 'v'] },
  takes: { power: [null, Number] },
  readsWeight: true,
  check: (site, c) => {
    checkTaken('loftq')(site, c);
    wholeNumber('loftq', 'iterations', c.iterations);
    if (c.power !== null) wholeNumber('loftq', 'power', c.power, 0);
  },
  init: (site, c, r, given) => {
    const { own, packed } = started(site, given.weight(), c, r);
    return { train: own, base: packed };
  },
  ...update,
  startsAsBase: () => 'no', // W up to what quantisation and r directions leave
});
