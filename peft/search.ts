// Searching configurations on two aims at once, a loss to make small and a size to make small: by chance, by neighbours, by evolution.
import { type Rng, rng } from '../core/rng.ts';
import { paretoFront } from './pareto.ts';

export interface Tried<C> {
  readonly config: C;
  readonly loss: number;
  readonly size: number;
}
export interface Space<C> {
  readonly draw: (r: Rng) => C;
  /** A neighbour: one thing changed. */
  readonly mutate: (c: C, r: Rng) => C;
  readonly size: (c: C) => number;
  readonly key: (c: C) => string;
}
export interface SearchOptions {
  readonly evaluations: number;
  /** Configurations larger than this are never evaluated. */
  readonly limit?: number;
  readonly seed?: number;
}

/** Draws until one is new and small enough; null after 1000 misses (the space is exhausted, or the limit leaves nothing) or where `make` has none. */
function fresh<C>(make: (r: Rng) => C | null, space: Space<C>, seen: ReadonlySet<string>, limit: number, r: Rng): C | null {
  for (let k = 0; k < 1000; k++) {
    const c = make(r);
    if (c === null) return null;
    if (space.size(c) <= limit && !seen.has(space.key(c))) return c;
  }
  return null;
}

/** What every search does: evaluates what `propose` answers (null: a random draw), never twice the same, never above the limit. */
export async function search<C>(
  space: Space<C>,
  loss: (c: C) => Promise<number>,
  { evaluations, limit = Number.POSITIVE_INFINITY, seed = 0 }: SearchOptions,
  propose: (tried: readonly Tried<C>[], r: Rng) => C | null,
): Promise<Tried<C>[]> {
  if (!Number.isInteger(evaluations) || evaluations < 1)
    throw new RangeError(`search: evaluations ${evaluations} must be a whole number from 1`);
  const r = rng(seed).split('search');
  const tried: Tried<C>[] = [];
  const seen = new Set<string>();
  while (tried.length < evaluations) {
    const config = fresh((own) => propose(tried, own), space, seen, limit, r) ?? fresh(space.draw, space, seen, limit, r);
    if (config === null) break;
    seen.add(space.key(config));
    tried.push({ config, loss: await loss(config), size: space.size(config) });
  }
  if (tried.length === 0) throw new RangeError(`search: no configuration of at most ${limit} scalars was found; raise the limit`);
  return tried;
}

/** Independent draws. The baseline that is hard to beat on few evaluations. */
export const randomSearch = <C>(space: Space<C>, loss: (c: C) => Promise<number>, o: SearchOptions): Promise<Tried<C>[]> =>
  search(space, loss, o, (_, r) => space.draw(r));

/** After `first` random draws, neighbours of members of the Pareto front, each as likely as the others. */
export const paretoSearch = <C>(
  space: Space<C>,
  loss: (c: C) => Promise<number>,
  o: SearchOptions & { readonly first?: number },
): Promise<Tried<C>[]> =>
  search(space, loss, o, (tried, r) => {
    const front = paretoFront(tried);
    return tried.length < (o.first ?? Math.ceil(o.evaluations / 2)) || front.length === 0
      ? space.draw(r)
      : space.mutate(front[r.below(front.length)]!.config, r);
  });

/** Regularised evolution (Real et al. 2019, arXiv 1802.01548): the best of a random `tournament` of the youngest `population` has a child. One aim: the loss. */
export const evolve = <C>(
  space: Space<C>,
  loss: (c: C) => Promise<number>,
  o: SearchOptions & { readonly population?: number; readonly tournament?: number },
): Promise<Tried<C>[]> => {
  const { population = 20, tournament = 5 } = o;
  return search(space, loss, o, (tried, r) => {
    if (tried.length < population) return space.draw(r);
    const young = tried.slice(-population); // the oldest dies
    const picked = Array.from({ length: tournament }, () => young[r.below(young.length)]!);
    return space.mutate(picked.reduce((a, b) => (b.loss < a.loss ? b : a)).config, r);
  });
};
