// NOAH's search: evolution by the accuracy that the supernet gives each subnet, under a limit of size.
// Zhang et al. 2022, arXiv 2206.04673, §3.2; numbers and order of steps as in the authors' code.
import { type Rng, rng } from '../../core/rng.ts';
import type { NoahConfig } from './noah.ts';
import type { NoahSpace } from './noahSpace.ts';

export interface NoahSearchOptions {
  readonly limit: number; // scalars trained at most (the authors: 0.64 million)
  readonly least?: number; // and at least
  readonly epochs?: number; // 20 (15 in their VTAB runs)
  readonly population?: number; // 50, filled up with random ones
  readonly select?: number; // 10 best of all so far are parents
  readonly mutations?: number; // 25
  readonly crossovers?: number; // 25
  readonly seed?: number;
}
export interface Rated {
  readonly config: NoahConfig;
  readonly size: number;
  readonly accuracy: number;
}

/**
 * All that was tried, the highest accuracy first; none twice, none outside the limits. `accuracy` is what a configuration reaches on
 * validation data with the supernet's numbers, `inherit(supernet, noah(c)(base))`: for language models the share of next tokens
 * guessed, or any score of which more is better. The winner is then trained from the start.
 */
export async function noahSearch(space: NoahSpace, accuracy: (c: NoahConfig) => Promise<number>, o: NoahSearchOptions): Promise<Rated[]> {
  const { limit, least = 1, epochs = 20, population = 50, select = 10, mutations = 25, crossovers = 25, seed = 0 } = o;
  const r = rng(seed).split('noah');
  const seen = new Set<string>();
  const tried: Rated[] = [];
  const grow = async (n: number, tries: number, make: () => NoahConfig): Promise<void> => {
    for (let k = 0, made = 0; k < tries && made < n; k++) {
      const config = make();
      const key = space.key(config);
      if (seen.has(key)) continue;
      seen.add(key); // the size of one refused stays what it is
      const size = space.size(config);
      if (size > limit || size < Math.max(1, least)) continue;
      tried.push({ config, size, accuracy: await accuracy(config) });
      made++;
    }
  };
  await grow(population, 1000, () => space.draw(r));
  if (tried.length === 0)
    throw new RangeError(`noah: no configuration of ${Math.max(1, least)} to ${limit} scalars was found; widen the limits`);
  const best = (): Rated[] => [...tried].sort((a, b) => b.accuracy - a.accuracy);
  for (let epoch = 0; epoch < epochs; epoch++) {
    const parents = best().slice(0, select);
    const parent = (of: Rng): NoahConfig => parents[of.below(parents.length)]!.config;
    const before = tried.length;
    await grow(mutations, 10 * mutations, () => space.mutate(parent(r), r));
    await grow(crossovers, 10 * crossovers, () => space.cross(parent(r), parent(r), r));
    await grow(population - (tried.length - before), 1000, () => space.draw(r));
  }
  return best();
}
