// Child-Tuning F: full fine-tuning in which every step moves another random share of the weights.
//   g ← g ⊙ M / p,   M ~ Bernoulli(p), fresh at every step and for every entry, so that E[g ⊙ M/p] = g
// Xu et al. 2021, arXiv 2109.05687, §3.1 (task-free). It regularises; it saves nothing: in the end all entries have moved.
import { paramOf } from '../../core/tensor.ts';
import { stochastic } from '../../nn/context.ts';
import { defineMethod } from '../attach.ts';
import { between } from '../check.ts';
import { change, type Dense, dense } from './dense.ts';

export interface ChildTuningConfig {
  readonly keep: number; // p; the authors search 0.2, 0.3, 0.4
}

/**
 * By default all weights of the blocks. Masked are the gradients, as in the authors' optimizer: moments and weight decay go on
 * acting on every entry. Count: all entries.
 */
export const childTuning = defineMethod<'weight', ChildTuningConfig, Dense>({
  name: 'childTuning',
  family: 'selective',
  paper: 'arXiv:2109.05687',
  at: 'weight',
  defaults: { keep: 0.3, where: /\bblocks\./ },
  check: (_, { keep }) => between('childTuning', 'keep', keep, Number.MIN_VALUE, 1, true),
  init: (site) => ({ train: dense(site) }),
  ...change,
  hooks: ({ delta }, { keep }, { field }) => ({
    afterGrad: (grads) => {
      const p = paramOf(delta)!;
      const g = grads.get(p);
      const mask = stochastic().bernoulli(`${field} child`, delta.shape, keep)!; // another one at every step
      return g === undefined ? new Map() : new Map([[p, g.mul(mask).mul(1 / keep)]]);
    },
  }),
});
