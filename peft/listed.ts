// What a list of methods holds for each: its family, its files, the paper's configuration and a small one for small networks.
import type { Kind } from '../nn/layer.ts';
import type { Configurable } from './attach.ts';
import type { AnyMethod, Options, Transform } from './method.ts';
import { checkOptions } from './options.ts';
import type { Where } from './site.ts';

/** What may be changed on any method. */
export interface Placed {
  readonly where?: Where;
  readonly seed?: number;
}
/** A method as `defineMethod` makes it, its options forgotten. */
export interface AnyMade {
  (options?: never): Transform;
  readonly method: AnyMethod;
}
export interface Listed {
  readonly name: string;
  readonly family: string;
  readonly paper: string;
  /** The kind of layer it attaches to; several for a composition. */
  readonly at: readonly Kind[];
  /** Where it is written, from the root of the repository. */
  readonly file: string;
  /** Whether `where` can be chosen; a composition's parts choose for themselves. */
  readonly placeable: boolean;
  /** As the paper has it; `seed` (0) starts what is random. */
  readonly standard: (seed?: number) => Transform;
  /** With options by name, as a configuration file has them. Throws for options that the method does not have, or of another type. */
  readonly configured: (options: Readonly<Record<string, unknown>>) => Transform;
  /** The method itself; null for a composition. */
  readonly configurable: AnyMade | null;
  /** Small enough for a network of width 8. */
  readonly tiny: (placed?: Placed) => Transform;
  /** Networks it has nothing to attach to, and why: there it must refuse. */
  readonly unfit: Readonly<Record<string, string>>;
}

/** A method made with `defineMethod`. */
export const listed = <C>(
  file: string,
  configurable: Configurable<C>,
  tiny: Options<C>,
  unfit: Readonly<Record<string, string>> = {},
): Listed => {
  const { name, family, paper, at } = configurable.method;
  return {
    name,
    family,
    paper,
    at: [at],
    file,
    unfit,
    placeable: true,
    standard: (seed = 0) => configurable({ seed } as Options<C>), // a seam: seed is an option of every method
    configurable,
    configured: (options) => configurable(options as Options<C>), // a seam: it checks them itself
    tiny: (placed = {}) => configurable({ ...tiny, ...placed }),
  };
};

/** A composition written in the open: it takes a seed, and its parts know their places. */
export const composition = (
  about: Pick<Listed, 'name' | 'family' | 'paper' | 'file'>,
  standard: (seed: number) => Transform,
  tiny: (seed: number) => Transform,
  unfit: Readonly<Record<string, string>> = {},
): Listed => ({
  ...about,
  at: [...new Set(standard(0).parts.map((p) => p.method.at))],
  unfit,
  placeable: false,
  standard: (seed = 0) => standard(seed),
  configurable: null,
  configured: (options) => {
    checkOptions(about.name, {}, { seed: [Number] }, options);
    return standard(options.seed === undefined ? 0 : Number(options.seed));
  },
  tiny: ({ seed = 0 } = {}) => tiny(seed),
});
