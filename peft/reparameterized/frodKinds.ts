// FRoD over a whole model: the layers of one name in their blocks are one kind, and each kind is decomposed together.
import { Matrix } from 'ml-matrix';
import type { Rng } from '../../core/rng.ts';
import type { Env } from '../method.ts';
import type { Site } from '../site.ts';
import type { FrodConfig } from './frod.ts';
import { type Start, startsOf } from './frodBasis.ts';

/** Layers that share V: those of one name in their blocks. */
export const category = ({ path }: Site<'linear'>): string => path.split('.').slice(-2).join('.');

/** Starts of all layers by path, those of one kind decomposed together. Throws where they read different numbers of features. */
export async function startsByKind(
  sites: readonly Site<'linear'>[],
  c: FrodConfig,
  { engine }: Env,
  r: Rng,
): Promise<ReadonlyMap<string, Start>> {
  const kinds = new Map<string, Site<'linear'>[]>();
  for (const s of sites) kinds.set(category(s), [...(kinds.get(category(s)) ?? []), s]);
  const starts = new Map<string, Start>();
  for (const [name, of] of kinds) {
    const weights: Matrix[] = [];
    for (const s of of) {
      if (s.shape[1] !== of[0]!.shape[1])
        throw new RangeError(
          `frod: ${s.path} and ${of[0]!.path} read ${s.shape[1]} and ${of[0]!.shape[1]} features, but would share a basis; attach to one of them`,
        );
      weights.push(Matrix.from1DArray(s.shape[0]!, s.shape[1]!, await engine.read(s.weight())));
    }
    for (const [k, start] of startsOf(of, weights, c, r.split(name)).entries()) starts.set(of[k]!.path, start);
  }
  return starts;
}
