// Child-Tuning D: full fine-tuning whose gradients reach only the entries that matter most for the task, chosen once.
//   g ← g ⊙ M,   M the share p of all entries with the largest F_i = Σ over batches of (clipped ∂L/∂θ_i)²
// Xu et al. 2021, arXiv 2109.05687, §3.2 (task-driven). As in the authors' code each tensor's gradient is clipped to norm 1 before it is
// squared, and what remains is not rescaled. Exactly pN entries, where the authors take all above a percentile.
import { div, min, sqrt, square } from '../../core/ops/map.ts';
import { sum } from '../../core/ops/reduce.ts';
import { size } from '../../core/shape.ts';
import { leaf, paramOf, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between } from '../check.ts';
import { dataOf, scoreSums } from '../sensitivity.ts';
import type { ChildTuningConfig } from './childTuning.ts';
import { change, type Dense, dense } from './dense.ts';
import { budget, type Chosen, choose } from './sparse.ts';

/** Gradient scaled to norm 1 where it is longer (PyTorch's clip_grad_norm_). */
const clipped = (g: Tensor): Tensor => g.mul(min(1, div(1, sqrt(sum(square(g))).add(1e-6))));

/**
 * By default 30 % of all weights of the blocks. δ is dense in training; only entries of the mask leave zero. Count: all entries;
 * the mask is not needed once training is over.
 */
export const childTuningD = defineMethod<'weight', ChildTuningConfig, Dense & { mask?: Tensor }, null, Chosen>({
  name: 'childTuningD',
  family: 'selective',
  paper: 'arXiv:2109.05687',
  at: 'weight',
  defaults: { keep: 0.3, where: /\bblocks\./ },
  check: (_, { keep }) => between('childTuningD', 'keep', keep, Number.MIN_VALUE, 1, true),
  prepare: async (sites, { keep }, env) => {
    const k = budget('childTuningD', sites, { density: keep, reserved: 0 });
    const { batches, loss } = dataOf('childTuningD', env);
    const scores = await scoreSums('childTuningD', sites, env, batches, (model, batch, gradients) =>
      gradients(loss(model, batch)).map((g) => square(clipped(g))),
    );
    return choose(sites, scores, k);
  },
  init: (site, _c, _r, { prepared }) => {
    const mask = new Float32Array(size(site.shape));
    for (const p of prepared.get(site.path) ?? []) mask[p] = 1;
    return { train: dense(site), fixed: { mask: leaf(mask, site.shape) } };
  },
  ...change,
  hooks: ({ delta, mask }) => ({
    afterGrad: (grads) => {
      const p = paramOf(delta)!;
      const g = grads.get(p);
      return g === undefined || mask === undefined ? new Map() : new Map([[p, g.mul(mask)]]);
    },
  }),
  finish: ({ delta }) => ({ delta }),
});
