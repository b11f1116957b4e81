// S-BitFit: whole biases are trained, those that proved to matter when all were; the others stay as they are.
//   b' = b + δ for the share ρ of the biases with the largest Σ_i −δ_i ∂L/∂δ_i (biasPruning.ts)
// Lawton et al. 2023, arXiv 2305.16597: the structured search, which decides bias by bias. Not verified: that a bias's score is the sum of its
// entries', and that the budget counts biases and not their entries.
import { size } from '../../core/shape.ts';
import { defineMethod } from '../attach.ts';
import { between } from '../check.ts';
import { largest } from '../select.ts';
import type { Site } from '../site.ts';
import { biases, worth } from './biasPruning.ts';
import { change, type Dense, dense } from './dense.ts';

export interface SBitfitConfig {
  readonly density: number; // ρ, rounded to whole biases, at least one
}
const kept = (sites: readonly Site<'weight'>[], { density }: SBitfitConfig): number => Math.max(1, Math.round(density * sites.length));

/**
 * Half of all biases (ours), norms' included. Needs `prepare(model, { engine, batches, loss, train })`. Count: the sizes of the biases kept;
 * before it is known which, of the largest ones.
 */
export const sBitfit = defineMethod<'weight', SBitfitConfig, Dense, null, ReadonlySet<string>>({
  name: 'sBitfit',
  family: 'selective',
  paper: 'arXiv:2305.16597',
  at: 'weight',
  defaults: { density: 0.5, where: /\.bias$/ },
  otherwise: biases('sBitfit').otherwise,
  check: (site, { density }) => {
    biases('sBitfit').check(site);
    between('sBitfit', 'density', density, Number.MIN_VALUE, 1, true);
  },
  prepare: async (sites, c, env) => {
    const scores = (await worth('sBitfit', sites, env)).map((s) => s.reduce((a, b) => a + b, 0));
    return new Set(largest([Float64Array.from(scores)], kept(sites, c))[0]!.map((k) => sites[k]!.path));
  },
  init: (site, _c, _r, { prepared }) => (prepared.has(site.path) ? { train: dense(site) } : null),
  around: change.around,
  fold: change.fold,
  startsAsBase: change.startsAsBase,
  count: (sites, c, prepared) => {
    const sizes = (prepared ? sites.filter((s) => prepared.has(s.path)) : sites).map((s) => size(s.shape)).sort((a, b) => b - a);
    const train = sizes.slice(0, kept(sites, c)).reduce((a, b) => a + b, 0);
    return { train, stored: train };
  },
});
