// The last k blocks are trained as they are, the rest is frozen: the oldest way to fine-tune little, and backward stops early.
//   W' = W + δ for every weight of blocks L − k … L − 1
// Lee et al. 2019, arXiv 1911.03090 §4: a quarter of the layers gives 90 % of the quality.

import { layers } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { blockNumber, type Site } from '../site.ts';
import { change, type Dense, dense } from './dense.ts';

export interface LastLayersConfig {
  readonly layers: number; // k
}
const depth = ({ root }: Site<'weight'>): number => 1 + Math.max(-1, ...[...layers(root)].map(({ path }) => blockNumber(path) ?? -1));
const trained = (site: Site<'weight'>, c: LastLayersConfig): boolean => site.block !== null && site.block >= depth(site) - c.layers;

/** A new head is trained besides (`unfreeze`). Count: the sizes of all weights there. */
export const lastLayers = defineMethod<'weight', LastLayersConfig, Dense>({
  name: 'lastLayers',
  family: 'selective',
  paper: 'arXiv:1911.03090',
  at: 'weight',
  defaults: { layers: 1, where: /\bblocks\./ },
  check: (site, { layers: k }) => {
    if (!Number.isInteger(k) || k < 1 || k > depth(site))
      throw new RangeError(`lastLayers: layers ${k} must be a whole number from 1 to ${depth(site)}, the blocks this model has`);
  },
  init: (site, c) => (trained(site, c) ? { train: dense(site) } : null),
  ...change,
  count: (sites, c) =>
    change.count(
      sites.filter((s) => trained(s, c)),
      c,
    ),
});
