// SAM, the second-order approximation method: the entries whose change promises the largest fall of the loss are trained.
//   L(θ + δ) ≈ L + gᵀδ + ½ Σ h_i δ_i²  is lowest at δ_i = −g_i/h_i, where entry i gains g_i²/2h_i;   with h_i alike: the k largest g_i²
// Fu et al. 2022, arXiv 2211.15583, §4. g is the gradient of the whole training loss, summed before it is squared.
// Not sharpness-aware minimisation.
import { defineMethod } from '../attach.ts';
import { gradientSums } from '../sensitivity.ts';
import { budget, type Chosen, type ChosenConfig, choose, type Sparse, sparse } from './sparse.ts';

/** By default half a percent of all weights of the blocks. Count: ⌊ρN⌋ − reserved. */
export const sam = defineMethod<'weight', ChosenConfig, Sparse, null, Chosen>({
  name: 'sam',
  family: 'selective',
  paper: 'arXiv:2211.15583',
  at: 'weight',
  defaults: { density: 0.005, reserved: 0, where: /\bblocks\./ },
  ...sparse('sam'),
  prepare: async (sites, c, env) => {
    const k = budget('sam', sites, c);
    const sums = await gradientSums('sam', sites, env);
    return choose(
      sites,
      sums.map((g) => g.map((v) => v * v)),
      k,
    );
  },
});
