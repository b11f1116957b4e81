// Every method of the library in one list, each with a small configuration for small networks: for tests, tables and the lab.
import type { Kind } from '../nn/layer.ts';
import type { Configurable } from './attach.ts';
import type { Options, Transform } from './method.ts';
import { lora } from './reparameterized/lora.ts';
import type { Where } from './site.ts';

/** What may be changed on any method. */
export interface Placed {
  readonly where?: Where;
  readonly seed?: number;
}
export interface Listed {
  readonly name: string;
  readonly family: string;
  readonly paper: string;
  /** The kind of layer it attaches to; several for a composition. */
  readonly at: readonly Kind[];
  /** Where it is written, from the root of the repository. */
  readonly file: string;
  /** As the paper has it. */
  readonly standard: () => Transform;
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
    standard: () => configurable(),
    tiny: (placed = {}) => configurable({ ...tiny, ...placed }),
  };
};

export const methods: readonly Listed[] = [listed('peft/reparameterized/lora.ts', lora, { rank: 2, alpha: 3 })];
