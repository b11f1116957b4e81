// A few entries of weights, chosen over all weights together: what sparse masks share.
//   W' = W + S,   S zero except for values at fixed places, zero at first;   k = ⌊ρN⌋ − reserved places among N entries
// Only values and places are kept: k trained scalars, and besides them a column for each and where each row starts (CSR).
import { sparseAdd } from '../../core/ops/sparse.ts';
import { size } from '../../core/shape.ts';
import { type Data, param, type Tensor } from '../../core/tensor.ts';
import { between } from '../check.ts';
import type { Method } from '../method.ts';
import { largest, placesAt } from '../select.ts';
import type { Site } from '../site.ts';

export interface ChosenConfig {
  readonly density: number; // ρ, share of all entries
  readonly reserved: number; // scalars of the budget that something else trains: a new head's
}
export type Sparse = { values: Tensor; start: Tensor; col: Tensor };
/** Flat places by path of the weight; a weight that is not there has none. */
export type Chosen = ReadonlyMap<string, readonly number[]>;

export const sparseAt = (
  places: readonly number[],
  shape: readonly number[],
): { train: Pick<Sparse, 'values'>; fixed: Omit<Sparse, 'values'> } => ({
  train: { values: param(new Float32Array(places.length), [places.length]) },
  fixed: { ...placesAt(places, shape) },
});

/** k, or an error when the budget leaves nothing. */
export function budget(method: string, sites: readonly Site<'weight'>[], { density, reserved }: ChosenConfig): number {
  const all = sites.reduce((n, s) => n + size(s.shape), 0) + reserved;
  const k = Math.floor(density * all) - reserved;
  if (k < 1)
    throw new RangeError(
      `${method}: a density of ${density} of ${all} scalars is ${Math.floor(density * all)}, of which ${reserved} are reserved: no entry is left to train; raise the density`,
    );
  return k;
}

/** The k best of all weights together, by path. Of equal scores the earlier one is taken. */
export function choose(sites: readonly Site<'weight'>[], scores: readonly Data[], k: number): Chosen {
  const places = largest(scores, k);
  return new Map(sites.flatMap((s, n) => (places[n]!.length === 0 ? [] : [[s.path, places[n]!] as const])));
}

/** All that a global mask has besides its scores. */
export const sparse = (
  method: string,
): Pick<
  Required<Method<'weight', ChosenConfig, Sparse, null, Chosen>>,
  'check' | 'init' | 'around' | 'fold' | 'count' | 'startsAsBase'
> => ({
  check: (_, c) => {
    between(method, 'density', c.density, Number.MIN_VALUE, 1, true);
    if (!Number.isInteger(c.reserved) || c.reserved < 0)
      throw new RangeError(`${method}: reserved ${c.reserved} must be a whole number, 0 or more`);
  },
  init: ({ path, shape }, _c, _r, { prepared }) => {
    const places = prepared.get(path);
    return places === undefined ? null : sparseAt(places, shape);
  },
  around: (call, p) => (ctx) => sparseAdd(call(ctx), p, p.values),
  fold: ({ weight, bias }, p) => ({ weight: sparseAdd(weight, p, p.values), bias }),
  count: (sites, c, prepared) => {
    const train = budget(method, sites, c);
    const used = prepared ? sites.filter((s) => prepared.has(s.path)) : sites; // before choosing: at most
    const rows = used.reduce((n, s) => n + size(s.shape.slice(0, -1)) + 1, 0);
    return { train, stored: 2 * train + rows }; // values, columns, row starts
  },
  startsAsBase: () => 'bitwise',
});
