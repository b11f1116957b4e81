// One pass for several models over one network: each serves some rows of the batch, or all serve the whole batch side by side.
//   inSpans: row b is served by the model in whose span b is        repeated: rows iB … (i+1)B of the answer are model i's
// AdapterHub's BatchSplit and Parallel (Poth et al. 2023, arXiv 2311.11077; Rücklé et al. 2021, arXiv 2010.11918).
import { repeat } from '../core/ops/move.ts';
import { ShapeError } from '../core/shape.ts';
import { leaf, type Tensor } from '../core/tensor.ts';
import { BASE, layer, type Model, ofKind } from '../nn/layer.ts';
import { mixed, type Rows } from './mixed.ts';

/** For `mixed(models, inSpans(2, 1))`: two rows for the first model, then one for the second. The sizes must add up to the batch. */
export const inSpans =
  (...sizes: readonly number[]): Rows =>
  (rows) => {
    if (sizes.reduce((a, b) => a + b, 0) !== rows)
      throw new ShapeError(`inSpans: ${sizes.join(' + ')} rows are not the ${rows} of this batch; give sizes that add up to it`);
    return leaf(
      sizes.flatMap((n, k) => Array<number>(n).fill(k)),
      [rows],
    );
  };

/**
 * All models on the same batch, in one pass: [B, T] → [n·B, …], the rows of `models[0]`, then those of `models[1]`. They must be over one
 * network, as for `mixed`; one of them may be the network itself. For a loss repeat the targets likewise. Refuses a cache, whose rows
 * would be those of one batch.
 */
export function repeated(models: readonly Model[]): Model {
  const n = models.length;
  const all = mixed(models, (rows) => inSpans(...models.map(() => rows / n))(rows));
  const times = <T extends Tensor | null | undefined>(t: T): Tensor | T => (t == null ? t : repeat(t, n, 0));
  return layer('model', { [BASE]: all }, (f) => (batch, ctx) => {
    if (ctx.cache !== null) throw new Error('repeated: a cache holds the rows of one batch; generate with each model, or with `mixed`');
    const { positions, keyMask, only } = ctx;
    return ofKind(f[BASE], 'model')(
      { ids: times(batch.ids), keyMask: times(batch.keyMask) ?? null, types: times(batch.types) ?? null },
      {
        ...ctx,
        keyMask: times(keyMask),
        only: times(only) ?? null,
        positions: positions.shape.length === 1 ? positions : times(positions),
      },
    );
  });
}
