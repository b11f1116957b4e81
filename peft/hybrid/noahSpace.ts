// NOAH's search space: for each module type, in how many of the first blocks it is, and its size in each of them.
// Zhang et al. 2022, arXiv 2206.04673, §3.2; numbers and mutation as in the authors' code.
import { type Rng, rng } from '../../core/rng.ts';
import type { Model } from '../../nn/layer.ts';
import type { Space } from '../search.ts';
import { pick, sitesOf } from '../site.ts';
import { MODULES, type NoahConfig, noah } from './noah.ts';

export interface NoahChoices {
  readonly sizes: readonly number[]; // of a module in a block: 5, 10, 50, 100
  readonly depths: readonly number[]; // how many of the first blocks have a module; the quarters of L: 3, 6, 9, 12 of 12
  readonly mutation: number; // chance of each module type to be changed at all
  readonly depthChange: number; // and then of its depth to be drawn anew
}
export interface NoahSpace extends Space<NoahConfig> {
  /** Each module type whole, from one parent or the other. */
  readonly cross: (a: NoahConfig, b: NoahConfig, r: Rng) => NoahConfig;
  /** The largest configuration: the supernet's. */
  readonly largest: NoahConfig;
}

const one = <T>(of: readonly T[], r: Rng): T => of[r.below(of.length)]!;
const byModule = (f: (m: (typeof MODULES)[number]) => readonly number[]): NoahConfig => ({
  prompt: f('prompt'),
  lora: f('lora'),
  adapter: f('adapter'),
});

/** As in the authors' code, a mutation makes a module type deeper, with new sizes for the blocks it gains, or shallower; sizes kept stay. */
export function noahSpace(model: Model, choices: Partial<NoahChoices> = {}): NoahSpace {
  const blocks = sitesOf(model, 'block').length;
  const quarters = [...new Set([1, 2, 3, 4].map((k) => Math.max(1, Math.round((blocks * k) / 4))))];
  const { sizes = [5, 10, 50, 100], depths = quarters, mutation = 0.2, depthChange = 0.4 } = choices;
  if (sizes.length === 0 || depths.length === 0 || sizes.some((n) => !Number.isInteger(n) || n < 1))
    throw new RangeError('noah: sizes must be whole numbers from 1, and sizes and depths must not be empty');
  const bad = depths.find((d) => !Number.isInteger(d) || d < 0 || d > blocks);
  if (bad !== undefined) throw new RangeError(`noah: depth ${bad} does not fit the ${blocks} blocks of this model`);
  const to = (depth: number, kept: readonly number[], r: Rng): number[] =>
    Array.from({ length: blocks }, (_, k) => (k >= depth ? 0 : kept[k]! > 0 ? kept[k]! : one(sizes, r)));
  const none = Array<number>(blocks).fill(0);
  const size = (c: NoahConfig): number =>
    MODULES.every((m) => c[m].every((n) => n === 0))
      ? 0
      : noah(c).parts.reduce((n, p) => n + p.method.count(pick(model, p.method.at, p.config.where, p.method.name), p.config).train, 0);
  return {
    draw: (r) => byModule(() => to(one(depths, r), none, r)),
    mutate: (c, r) => byModule((m) => (r.next() < mutation && r.next() < depthChange ? to(one(depths, r), c[m], r) : c[m])),
    cross: (a, b, r) => byModule((m) => (r.next() < 0.5 ? a : b)[m]),
    size,
    key: (c) => JSON.stringify(c),
    largest: byModule(() => to(Math.max(...depths), Array<number>(blocks).fill(Math.max(...sizes)), rng(0))),
  };
}
