// U-BitFit: single entries of biases are trained, those that proved to matter when all biases were.
//   b' = b + δ on the k = ⌊ρN⌋ entries of all biases with the largest −δ_i ∂L/∂δ_i (biasPruning.ts), 0 elsewhere
// Lawton et al. 2023, arXiv 2305.16597: the unstructured search.
import { defineMethod } from '../attach.ts';
import { biases, worth } from './biasPruning.ts';
import { budget, type Chosen, type ChosenConfig, choose, type Sparse, sparse } from './sparse.ts';

/** A tenth of the entries (ours) of all biases, norms' included. Needs `prepare(model, { engine, batches, loss, train })`. Count: ⌊ρN⌋ − reserved. */
export const uBitfit = defineMethod<'weight', ChosenConfig, Sparse, null, Chosen>({
  name: 'uBitfit',
  family: 'selective',
  paper: 'arXiv:2305.16597',
  at: 'weight',
  defaults: { density: 0.1, reserved: 0, where: /\.bias$/ },
  ...sparse('uBitfit'),
  otherwise: biases('uBitfit').otherwise,
  check: (site, c) => {
    biases('uBitfit').check(site);
    sparse('uBitfit').check(site, c);
  },
  prepare: async (sites, c, env) => {
    const k = budget('uBitfit', sites, c);
    return choose(sites, await worth('uBitfit', sites, env), k);
  },
});
