// Adam: steps scaled by running averages of the gradient and of its square.
//   g ← g + λθ;  m ← β₁m + (1 − β₁)g;  v ← β₂v + (1 − β₂)g²
//   θ ← θ − η/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)
// Kingma & Ba 2015, arXiv 1412.6980, algorithm 1; weight decay as torch.optim.Adam (added to the gradient).

import { sqrt } from '../core/ops/map.ts';
import type { Tensor } from '../core/tensor.ts';
import { type At, again, type Common, defineOptimizer, type Optimizer, rate, zeros } from './optimizer.ts';

export interface AdamConfig extends Common {
  readonly beta1: number;
  readonly beta2: number;
  /** Added to the root of v, so that a silent parameter does not divide by 0. */
  readonly eps: number;
}

export const checkBetas = (name: string, c: AdamConfig): void => {
  rate(name, 'beta1', c.beta1);
  rate(name, 'beta2', c.beta2);
  if (!(c.eps > 0)) throw new RangeError(`${name}: eps must be above 0, got ${c.eps}`);
};

/** The host's part: η/(1 − β₁ᵗ) and 1/√(1 − β₂ᵗ), in double precision. */
export const corrections = (c: AdamConfig, { step, lr }: At): { rate: number; scale: number } => ({
  rate: lr / (1 - c.beta1 ** step),
  scale: 1 / Math.sqrt(1 - c.beta2 ** step),
});

interface Averages {
  readonly m: Tensor;
  readonly v: Tensor;
}
/** The averages after one more gradient. */
export const averages = (c: AdamConfig, g: Tensor, { m, v }: Averages): Averages => ({
  m: m.mul(c.beta1).add(g.mul(1 - c.beta1)),
  v: v.mul(c.beta2).add(g.mul(g).mul(1 - c.beta2)),
});
/** What is taken off the value. */
export const stepOf = (c: AdamConfig, { m, v }: Averages, n: { readonly rate: Tensor; readonly scale: Tensor }): Tensor =>
  m.mul(n.rate).div(sqrt(v).mul(n.scale).add(c.eps));

/** Defaults: lr 1e-3, beta1 0.9, beta2 0.999, eps 1e-8, weightDecay 0. */
export function adam(options: Partial<AdamConfig> = {}): Optimizer {
  const c: AdamConfig = { lr: 1e-3, weightDecay: 0, groups: [], beta1: 0.9, beta2: 0.999, eps: 1e-8, ...options };
  checkBetas('adam', c);
  return defineOptimizer({
    name: 'adam',
    config: { ...c },
    init: (p) => ({ m: zeros(p), v: zeros(p) }),
    numbers: (at) => ({ ...corrections(c, at), decay: at.decay }),
    update: ({ value, grad, state, numbers }) => {
      const g = grad.add(value.mul(numbers.decay));
      return { value: again(() => value.sub(stepOf(c, averages(c, g, state), numbers))), state: averages(c, g, state) };
    },
  });
}
