// The greedy procedure that found S4: one part of the design after another, each choice by the mean score of random designs that share it.
// Chen et al. 2023, arXiv 2301.01821, §4.
import { type Rng, rng } from '../../core/rng.ts';
import { STRATEGIES, type Strategy } from './s4.ts';
import { allocations, groupings, subsets } from './s4Spaces.ts';

export interface Design {
  readonly sizes: readonly number[]; // blocks of each of four groups
  readonly shares: readonly number[]; // of the budget, per layer of each group; 0: not tuned
  readonly strategies: readonly (readonly Strategy[])[];
}

/** What was decided, in order: the option, its mean score, and the means of the others. */
export interface Decision {
  readonly part: 'grouping' | 'allocation' | 'tuned' | `group ${number}`;
  readonly chosen: string;
  readonly means: ReadonlyMap<string, number>;
}

/**
 * `score` (higher is better) trains and judges a design; `samples` (8) random designs stand for each option. Five groupings, three
 * allocations, the 15 sets of groups to tune, then 15 mixtures for each group in turn: 8·(5 + 3 + 15 + 4·15) = 664 scores. Deterministic
 * by the seed. The designs of one decision differ in the decided part only (the same draws for every option), so that chance does not decide.
 */
export async function s4Search(
  score: (d: Design) => Promise<number>,
  {
    layers,
    samples = 8,
    seed = 0,
    strategies = STRATEGIES,
  }: { layers: number; samples?: number; seed?: number; strategies?: readonly Strategy[] },
): Promise<{ readonly design: Design; readonly decisions: readonly Decision[] }> {
  const decisions: Decision[] = [];
  const mixtures = subsets(strategies);
  const grouped = groupings(layers);
  const anyOf = <T>(all: readonly T[], r: Rng): T => all[r.below(all.length)]!;
  type Part = Partial<{
    sizes: readonly number[];
    allocation: readonly number[];
    tuned: readonly number[];
    mixtures: readonly (readonly Strategy[] | null)[];
  }>;
  const complete = (fixed: Part, r: Rng): Design => {
    const sizes = fixed.sizes ?? anyOf([...grouped.values()], r.split('sizes'));
    const allocation = fixed.allocation ?? anyOf([...allocations.values()], r.split('allocation'));
    const tuned = fixed.tuned ?? anyOf(subsets([0, 1, 2, 3]), r.split('tuned'));
    return {
      sizes,
      shares: allocation.map((a, k) => (tuned.includes(k) ? a : 0)),
      strategies: [0, 1, 2, 3].map((k) => fixed.mixtures?.[k] ?? anyOf(mixtures, r.split(`group ${k}`))),
    };
  };
  async function decide<T>(part: Decision['part'], options: ReadonlyMap<string, T>, as: (option: T) => Part): Promise<T> {
    const means = new Map<string, number>();
    for (const [name, option] of options) {
      let sum = 0;
      for (let s = 0; s < samples; s++) sum += await score(complete(as(option), rng(seed).split(part).split(s)));
      means.set(name, sum / samples);
    }
    const [chosen] = [...means].reduce((a, b) => (b[1] > a[1] ? b : a));
    decisions.push({ part, chosen, means });
    return options.get(chosen)!;
  }
  const named = <T>(all: readonly (readonly T[])[]): Map<string, readonly T[]> => new Map(all.map((x) => [x.join(' + '), x]));
  const sizes = await decide('grouping', grouped, (s) => ({ sizes: s }));
  const allocation = await decide('allocation', allocations, (a) => ({ sizes, allocation: a }));
  const tuned = await decide('tuned', named(subsets([0, 1, 2, 3])), (t) => ({ sizes, allocation, tuned: t }));
  const chosen: (readonly Strategy[] | null)[] = [null, null, null, null];
  for (const k of tuned)
    chosen[k] = await decide(`group ${k + 1}`, named(mixtures), (m) => ({ sizes, allocation, tuned, mixtures: chosen.with(k, m) }));
  return { design: complete({ sizes, allocation, tuned, mixtures: chosen.map((m) => m ?? []) }, rng(seed)), decisions };
}
