// NOAH's search: a supernet whose leading rows are every smaller subnet's, trained subnet by subnet; then evolution under a size limit.
// Zhang et al. 2022, arXiv 2206.04673, §3.2; details from the authors' code.
import { type Rng, rng } from '../../core/rng.ts';
import { withValues } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { trainable } from '../../nn/tree.ts';
import type { Transform } from '../method.ts';
import type { Space, Tried } from '../search.ts';
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

/** `to` with the numbers of `from` wherever both have them: at equal paths, the leading rows and columns of the two. */
export function inherit(from: Model, to: Model): Model {
  const given = new Map([...trainable(from)].map(([p, path]) => [path, p]));
  return withValues(
    to,
    new Map(
      [...trainable(to)].map(([p, path]) => {
        const own = Float32Array.from(p.value);
        const other = given.get(path);
        if (other !== undefined) {
          const [cols, theirs] = [p.shape.at(-1)!, other.shape.at(-1)!];
          const rows = Math.min(own.length / cols, other.value.length / theirs);
          for (let i = 0; i < rows; i++) for (let j = 0; j < Math.min(cols, theirs); j++) own[i * cols + j] = other.value[i * theirs + j]!;
        }
        return [p, own];
      }),
    ),
  );
}

/**
 * Trains a supernet by its subnets: draws one, lets `train` train it from the supernet's numbers, writes those back; `rounds` times. The
 * authors draw one for every step of a single optimizer; here an optimizer starts anew with each, so let `train` take few steps.
 */
export async function noahSupernet(
  base: Model,
  space: NoahSpace,
  {
    train,
    rounds,
    seed = 0,
    make = noah,
  }: {
    readonly train: (subnet: Model) => Promise<Model>;
    readonly rounds: number;
    readonly seed?: number;
    readonly make?: (c: NoahConfig) => Transform;
  },
): Promise<Model> {
  const r = rng(seed).split('supernet');
  let whole = make(space.largest)(base);
  for (let k = 0; k < rounds; k++) whole = inherit(await train(inherit(whole, subnet(base, space, r, make))), whole);
  return whole;
}
function subnet(base: Model, space: NoahSpace, r: Rng, make: (c: NoahConfig) => Transform): Model {
  for (;;) {
    const c = space.draw(r);
    if (space.size(c) > 0) return make(c)(base);
  }
}

export interface NoahSearchOptions {
  readonly limit: number; // scalars trained at most
  readonly least?: number; // and at least
  readonly epochs?: number; // 20
  readonly population?: number; // 50, filled up with random ones
  readonly select?: number; // 10 best of all so far are parents
  readonly mutations?: number; // 25
  readonly crossovers?: number; // 25
  readonly seed?: number;
}

/**
 * All that was tried, the lowest loss first; none twice, none outside the limits. `loss` is the validation loss (the authors': minus the
 * accuracy) of a configuration with the supernet's numbers: `inherit(supernet, noah(c)(base))`. The winner is then trained from the start.
 */
export async function noahSearch(
  space: NoahSpace,
  loss: (c: NoahConfig) => Promise<number>,
  o: NoahSearchOptions,
): Promise<Tried<NoahConfig>[]> {
  const { limit, least = 1, epochs = 20, population = 50, select = 10, mutations = 25, crossovers = 25, seed = 0 } = o;
  const r = rng(seed).split('noah');
  const seen = new Set<string>();
  const tried: Tried<NoahConfig>[] = [];
  const grow = async (n: number, tries: number, make: () => NoahConfig): Promise<void> => {
    for (let k = 0, made = 0; k < tries && made < n; k++) {
      const config = make();
      const key = space.key(config);
      if (seen.has(key)) continue;
      seen.add(key); // the size of one refused stays what it is
      const size = space.size(config);
      if (size > limit || size < Math.max(1, least)) continue;
      tried.push({ config, size, loss: await loss(config) });
      made++;
    }
  };
  await grow(population, 1000, () => space.draw(r));
  if (tried.length === 0)
    throw new RangeError(`noah: no configuration of ${Math.max(1, least)} to ${limit} scalars was found; widen the limits`);
  const best = (): Tried<NoahConfig>[] => [...tried].sort((a, b) => a.loss - b.loss);
  for (let epoch = 0; epoch < epochs; epoch++) {
    const parents = best().slice(0, select);
    const before = tried.length;
    await grow(mutations, 10 * mutations, () => space.mutate(one(parents, r).config, r));
    await grow(crossovers, 10 * crossovers, () => space.cross(one(parents, r).config, one(parents, r).config, r));
    await grow(population - (tried.length - before), 1000, () => space.draw(r));
  }
  return best();
}
