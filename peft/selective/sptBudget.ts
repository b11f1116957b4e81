// What SPT spends its budget on: how a weight is tuned follows from how many of its entries are among the most sensitive.
//   s_i = Σ over batches of (∂L/∂θ_i)²;   the τ largest of all weights together;   τ is the largest for which the total meets the budget
// He et al. 2023, arXiv 2303.08566, §3.
import { square } from '../../core/ops/map.ts';
import { size } from '../../core/shape.ts';
import type { Env } from '../method.ts';
import { dataOf, scoreSums } from '../sensitivity.ts';
import type { Site } from '../site.ts';
import { budget, type Chosen, type ChosenConfig, choose } from './sparse.ts';

export interface SptConfig extends ChosenConfig {
  readonly rank: number; // of a matrix that is sensitive all over
  readonly batches: number; // gradients are of so many, at most
}

/** What a weight gets for `selected` of its entries: how it is tuned, and how many numbers that trains. */
export function share(
  { shape }: Pick<Site<'weight'>, 'shape'>,
  selected: number,
  { rank }: SptConfig,
): { how: 'none' | 'sparse' | 'whole'; train: number } {
  if (selected === 0) return { how: 'none', train: 0 };
  const whole = shape.length === 2 ? rank * (shape[0]! + shape[1]!) : size(shape);
  return selected >= whole / 5 ? { how: 'whole', train: whole } : { how: 'sparse', train: selected };
}
/** What all weights train together. */
export const total = (sites: readonly Site<'weight'>[], chosen: Chosen, c: SptConfig): number =>
  sites.reduce((n, s) => n + share(s, chosen.get(s.path)?.length ?? 0, c).train, 0);

/** The entries of the largest τ that meets the budget, by weight. */
export async function chosenWithin(sites: readonly Site<'weight'>[], c: SptConfig, env: Env): Promise<Chosen> {
  const k = budget('spt', sites, c);
  const { batches, loss } = dataOf('spt', env);
  const scores = await scoreSums('spt', sites, env, batches.slice(0, c.batches), (m, b, gradients) => gradients(loss(m, b)).map(square));
  for (let tau = k; tau >= 1; tau = Math.min(tau - 1, Math.floor(0.98 * tau))) {
    const chosen = choose(sites, scores, tau);
    if (total(sites, chosen, c) <= k) return chosen;
  }
  throw new RangeError(`spt: even one selected entry costs more than the ${k} scalars of the budget; raise the density, or lower the rank`);
}
