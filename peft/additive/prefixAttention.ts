// Attention over a prefix: a table's rows as heads in front of the text's keys and values.
//   attend(q, [P_k; k], [P_v; v])
// Li & Liang 2021, arXiv 2101.00190, §4.2.
import { broadcastTo, concat, pad, permute, reshape } from '../../core/ops/move.ts';
import { ShapeError } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';
import { type Context, shifted, withKeys } from '../../nn/context.ts';
import { BASE, type Calls, type Layer, layer } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import type { Site, Where } from '../site.ts';

/**
 * A table [p, Hk·D] as heads [B, Hk, p, D], for keys like `k` [B, Hk, T, D]. Heads that a method above made wider (UniPELT's gate
 * does, with zeros behind the text's keys) get rows with zeros behind them too.
 */
export function asHeads(rows: Tensor, k: Tensor): Tensor {
  const [b, heads, , width] = k.shape as readonly [number, number, number, number];
  const [p, all] = rows.shape as readonly [number, number];
  const own = all / heads; // D of the network
  const split = permute(reshape(rows, [p, heads, own]), [1, 0, 2]);
  return broadcastTo(pad(split, 2, 0, width - own), [b, heads, p, width]);
}

/** What training drops of a prefix's heads: nothing by default. `part` tells keys from values. */
export type DropHeads = (heads: Tensor, part: 'keys' | 'values', ctx: Context) => Tensor;

/** Attention over the tables and the text: attend(q, [P_k; k], [P_v; v]). */
export const attendWith = (call: Layer<'attend'>, keys: Tensor, values: Tensor, drop: DropHeads = (heads) => heads): Layer<'attend'> =>
  layer('attend', { [BASE]: call }, ({ [BASE]: call }) => (q, k, v, ctx) => {
    const front = { keys: drop(asHeads(keys, k), 'keys', ctx), values: drop(asHeads(values, v), 'values', ctx) };
    return call(q, concat([front.keys, k], 2), concat([front.values, v], 2), withKeys(ctx, keys.shape[0]!));
  });

/** Hk·D of each table of a prefix, in order: keys and values of the first attention layer, of the second, … */
export const tableWidths = (site: Site<'trunk'>, attend?: Where): number[] =>
  site.within('attend', attend).flatMap((a) => Array.from({ length: 2 }, () => a.dim('kvHeads') * a.dim('headWidth')));

/** The trunk with a prefix of p rows at its attention layers: a key table and a value table [p, Hk·D] for each, in turn. The text's positions start at p, or stay (`shift: false`). */
export function prefixed(
  call: Layer<'trunk'>,
  site: Site<'trunk'>,
  { length, attend, shift = true }: { readonly length: number; readonly attend: Where; readonly shift?: boolean },
  tables: () => readonly Tensor[],
  drop?: DropHeads,
): Calls['trunk'] {
  const at = new Map(site.within('attend', attend).map((a) => [a.path, a.index]));
  return (h, ctx) => {
    if (shift && h.shape[1]! + length > site.dim('longest'))
      throw new ShapeError(
        `${site.path}: ${h.shape[1]} tokens after a prefix of ${length}, but this model has ${site.dim('longest')} positions; shorten the text or the prefix`,
      );
    const table = tables();
    const within = substitute(
      call,
      'attend',
      (l, path) => {
        const i = at.get(path);
        return i === undefined ? null : attendWith(l, table[2 * i]!, table[2 * i + 1]!, drop);
      },
      site.path,
    );
    return within(h, shift ? shifted(ctx, length) : ctx);
  };
}
