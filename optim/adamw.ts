// AdamW: Adam with weight decay taken off the value instead of added to the gradient.
//   θ ← (1 − ηλ)θ, then Adam's step with the plain gradient
// Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2; decay multiplied by the learning rate, as torch.optim.AdamW.
import { type AdamConfig, averages, checkBetas, corrections, stepOf } from './adam.ts';
import { again, defineOptimizer, type Optimizer, zeros } from './optimizer.ts';

/** Defaults: lr 1e-3, beta1 0.9, beta2 0.999, eps 1e-8, weightDecay 0.01. */
export function adamw(options: Partial<AdamConfig> = {}): Optimizer {
  const c: AdamConfig = { lr: 1e-3, weightDecay: 1e-2, groups: [], beta1: 0.9, beta2: 0.999, eps: 1e-8, ...options };
  checkBetas('adamw', c);
  return defineOptimizer({
    name: 'adamw',
    config: { ...c },
    init: (p) => ({ m: zeros(p), v: zeros(p) }),
    numbers: (at) => ({ ...corrections(c, at), keep: 1 - at.lr * at.decay }),
    update: ({ value, grad, state, numbers }) => ({
      value: again(() => value.mul(numbers.keep).sub(stepOf(c, averages(c, grad, state), numbers))),
      state: averages(c, grad, state),
    }),
  });
}
