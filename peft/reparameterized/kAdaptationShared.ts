// What KAdaptation's layers share: the slow factors l and r by the name of a layer, the vector c by its parent and width.
import type { Rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import type { Site } from '../site.ts';
import type { KAdaptation, KAdaptationConfig } from './kAdaptation.ts';

export interface Shared {
  readonly slow: ReadonlyMap<string, Pick<KAdaptation, 'left' | 'right'>>;
  readonly bias: ReadonlyMap<string, Tensor>;
}
/** Sites of one name share l and r. */
export const nameOf = ({ path }: Site<'linear'>): string => path.split('.').at(-1)!;
/** Sites of one parent with answers of one width share c. */
export const placeOf = ({ path, shape }: Site<'linear'>): string => `${path.slice(0, path.lastIndexOf('.'))} ${shape[0]}`;
/** The sum of `each` over the sites, those that share counted once. */
export const once = (sites: readonly Site<'linear'>[], of: (s: Site<'linear'>) => string, each: (s: Site<'linear'>) => number): number =>
  [...new Map(sites.map((s) => [of(s), each(s)])).values()].reduce((a, b) => a + b, 0);

function slow(n: number, r: Rng): Pick<KAdaptation, 'left' | 'right'> {
  const draw = (name: string): Tensor => param(r.split(name).uniform(n * n, -0.01, 0.01), [n, n]);
  return { left: draw('left'), right: draw('right') };
}
/** l, r ~ U(±0.01) and c = 0. */
export const sharedOf = (sites: readonly Site<'linear'>[], { n }: KAdaptationConfig, r: Rng): Shared => ({
  slow: new Map(sites.map((s) => [nameOf(s), slow(n, r.split(nameOf(s)))])),
  bias: new Map(sites.map((s) => [placeOf(s), param(new Float32Array(s.shape[0]!), [s.shape[0]!], { decay: false })])),
});
