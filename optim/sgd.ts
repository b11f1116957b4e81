// Stochastic gradient descent with momentum, as PyTorch defines it.
//   g ← g + λθ;  b ← μb + (1 − τ)g, but b ← g in the first step;  θ ← θ − η(g + μb) with Nesterov, else θ − ηb
// Sutskever et al. 2013 (momentum in deep learning); torch.optim.SGD for where the rate and the dampening stand.
import { again, type Common, defineOptimizer, type Optimizer, rate, zeros } from './optimizer.ts';

export interface SgdConfig extends Common {
  /** μ, 0 for none. */
  readonly momentum: number;
  /** τ: how much less a new gradient counts, from the second step on. */
  readonly dampening: number;
  readonly nesterov: boolean;
}

/** Defaults: lr 0.01, momentum 0, dampening 0, weightDecay 0. Nesterov needs momentum and no dampening. */
export function sgd(options: Partial<SgdConfig> = {}): Optimizer {
  const c: SgdConfig = { lr: 1e-2, weightDecay: 0, groups: [], momentum: 0, dampening: 0, nesterov: false, ...options };
  rate('sgd', 'momentum', c.momentum);
  if (c.nesterov && (c.momentum === 0 || c.dampening !== 0))
    throw new RangeError(`sgd: Nesterov needs momentum above 0 and dampening 0, got ${c.momentum} and ${c.dampening}`);
  const config = { ...c };
  if (c.momentum === 0)
    return defineOptimizer({
      name: 'sgd',
      config,
      init: () => ({}),
      numbers: ({ lr, decay }) => ({ lr, decay }),
      update: ({ value, grad, numbers: { lr, decay } }) => ({ value: value.sub(grad.add(value.mul(decay)).mul(lr)), state: {} }),
    });
  return defineOptimizer({
    name: 'sgd',
    config,
    init: (p) => ({ momentum: zeros(p) }),
    numbers: ({ step, lr, decay }) => ({ lr, decay, fresh: step === 1 ? 1 : 1 - c.dampening }),
    update: ({ value, grad, state, numbers: { lr, decay, fresh } }) => {
      const g = grad.add(value.mul(decay));
      const average = () => state.momentum.mul(c.momentum).add(g.mul(fresh));
      const direction = () => (c.nesterov ? g.add(average().mul(c.momentum)) : average());
      return { value: again(() => value.sub(direction().mul(lr))), state: { momentum: average() } };
    },
  });
}
