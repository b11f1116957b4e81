// Where aLoRA acts: from the start of the last invocation w₁ … w_n in the text on, found among the ids that the pass, or a cache, has seen.
import { iota } from '../../core/ops/index.ts';
import { eq, full, ge, gt } from '../../core/ops/map.ts';
import { pad } from '../../core/ops/move.ts';
import { maxOver } from '../../core/ops/reduce.ts';
import { ShapeError } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Context, Seen } from '../../nn/context.ts';
import type { Site } from '../site.ts';
import type { AloraConfig } from './alora.ts';

/** Where the last invocation starts in each row, counted from 1; 0 where there is none. [B, 1] */
function lastStart({ ids, used }: Seen, w: readonly number[]): Tensor {
  const [b, t] = ids.shape as readonly [number, number];
  const places = t - w.length + 1;
  if (places < 1) return full([b, 1], 0);
  const whole = w.map((id, k) => eq(ids.slice(1, k, k + places), id)).reduce((x, y) => x.mul(y)); // [B, places]
  const real = used === null ? whole : whole.mul(used.slice(1, w.length - 1, t));
  return maxOver(real.mul(iota(places).add(1)), [1], true);
}

/** a [B, T, 1] for the tokens x [B, T, in] of this pass; null for rows that are no tokens of the text (LLaMA-Adapter's prompt passes k and v too). */
export function active(x: Tensor, { invocation, absent }: AloraConfig, { path }: Site<'linear'>, ctx: Context): Tensor | null {
  if (ctx.seen === undefined)
    throw new ShapeError(`alora at ${path}: it acts on the ids of the text, which this pass does not say; run the whole model`);
  const seen = ctx.seen();
  const start = lastStart(seen, invocation);
  const [b, t] = [x.shape[0]!, x.shape[1]!];
  const rows = absent === 'all' ? full([b, 1], 1) : gt(start, 0); // [B, 1]
  if (ctx.cache?.filled) return x.shape.length === 3 ? rows.add(full([b, t], 0)).reshape(b, t, 1) : null;
  const n = seen.ids.shape[1]!;
  if (x.shape.length !== 3 || t < n) return null;
  return pad(ge(iota(n).add(1), start).mul(rows), 1, t - n, 0).reshape(b, t, 1); // a prompt in front is before the invocation
}
