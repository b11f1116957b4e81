// SNIP mask: the entries to which the loss is most sensitive when they are scaled are trained.
//   score_i = |θ_i ∂L/∂θ_i|,   which is |∂L/∂c_i| for θ_i c_i at c = 1
// Lee et al. 2019, arXiv 1810.02340, §4.1, made for pruning; a usual baseline for sparse fine-tuning.
import { defineMethod } from '../attach.ts';
import { gradientSums } from '../sensitivity.ts';
import { budget, type Chosen, type ChosenConfig, choose, type Sparse, sparse } from './sparse.ts';

/** By default half a percent of all weights of the blocks. Count: ⌊ρN⌋ − reserved. */
export const snip = defineMethod<'weight', ChosenConfig, Sparse, null, Chosen>({
  name: 'snip',
  family: 'selective',
  paper: 'arXiv:1810.02340',
  at: 'weight',
  defaults: { density: 0.005, reserved: 0, where: /\bblocks\./ },
  ...sparse('snip'),
  prepare: async (sites, c, env) => {
    const k = budget('snip', sites, c);
    const sums = await gradientSums('snip', sites, env);
    const weights = await Promise.all(sites.map(async (s) => (await env.engine.read(s.weight())).slice()));
    return choose(
      sites,
      sums.map((g, n) => g.map((v, i) => Math.abs(v * weights[n]![i]!))),
      k,
    );
  },
});
