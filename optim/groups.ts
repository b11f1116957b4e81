// Parameter groups: which parameters, by path, get another learning rate or weight decay.
import type { Param } from '../core/tensor.ts';

/**
 * Names match whole parts of a path: 'q' and 'attn.q' both match trunk.blocks.0.attn.q.lora.A, and so does 'lora'.
 * A regular expression is searched for in the path.
 */
export type Pattern = string | readonly string[] | RegExp | ((path: string) => boolean);

export interface Group {
  readonly where: Pattern;
  /** Multiplies the learning rate (1). */
  readonly lr?: number;
  /** Replaces the optimizer's weight decay. A parameter made with `decay: false` stays without. */
  readonly weightDecay?: number;
}

export function inPattern(where: Pattern, path: string): boolean {
  if (typeof where === 'string') return `.${path}.`.includes(`.${where}.`);
  if (typeof where === 'function') return where(path);
  return where instanceof RegExp ? where.test(path) : where.some((w) => inPattern(w, path));
}

/** Learning-rate multiplier and decay of one parameter. */
export interface Rates {
  readonly lr: number;
  readonly decay: number;
}

/** The rates of every parameter: its own multiplier times its group's. Throws when a group matches none of them. */
export function ratesOf(params: ReadonlyMap<Param, string>, groups: readonly Group[], weightDecay: number): Map<Param, Rates> {
  for (const g of groups)
    if (![...params.values()].some((path) => inPattern(g.where, path)))
      throw new RangeError(
        `groups: ${String(g.where)} matches no trained parameter. Trained are ${some([...params.values()])}; a name matches whole parts of a path`,
      );
  return new Map(
    [...params].map(([p, path]) => {
      const g = groups.find(({ where }) => inPattern(where, path));
      return [p, { lr: p.lr * (g?.lr ?? 1), decay: p.decay ? (g?.weightDecay ?? weightDecay) : 0 }];
    }),
  );
}

/** A list short enough for an error message. */
export const some = (names: readonly string[], most = 6): string =>
  names.length === 0 ? 'none' : names.length <= most ? names.join(', ') : `${names.slice(0, most).join(', ')}, … (${names.length})`;
