// What LoHa and LoKr share: how they start, and how the update of a weight is dropped in training.
import { max } from '../../core/ops/map.ts';
import type { Rng } from '../../core/rng.ts';
import { type Shape, size } from '../../core/shape.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import { between, rankFits } from '../check.ts';
import type { Site } from '../site.ts';

export interface LycorisConfig {
  readonly rank: number;
  readonly alpha: number; // s = α/r
  readonly rankDropout: number; // share of output rows of ΔW to drop
  readonly moduleDropout: number; // chance to leave out ΔW for one step
}

export function checkLycoris(method: string, site: Site<'linear'>, c: LycorisConfig): void {
  rankFits(method, site, c.rank);
  between(method, 'rankDropout', c.rankDropout, 0, 1);
  between(method, 'moduleDropout', c.moduleDropout, 0, 1);
  if (!(c.alpha > 0)) throw new RangeError(`${method}: alpha ${c.alpha} must be positive; it is usually 1 or 2 times the rank`);
}

/** Kaiming-uniform with a = √5: U(±1/√cols). */
export const kaiming = (shape: Shape, r: Rng): Tensor => {
  const bound = 1 / Math.sqrt(shape[1]!);
  return param(r.uniform(size(shape), -bound, bound), shape);
};
export const zeros = (shape: Shape): Tensor => param(new Float32Array(size(shape)), shape);

/** ΔW x [..., out] as training sees it: rows of ΔW dropped, and all of it now and then. `rescale` divides by the share kept. */
export function keptRows(y: Tensor, c: LycorisConfig, { field }: Site<'linear'>, ctx: Context, rescale: boolean): Tensor {
  const out = y.shape.at(-1)!;
  const rows = c.rankDropout === 0 ? null : ctx.draw.bernoulli(`${field} rows`, [out], 1 - c.rankDropout);
  const whole = c.moduleDropout === 0 ? null : ctx.draw.bernoulli(`${field} module`, [1], 1 - c.moduleDropout);
  const some = rows === null ? y : y.mul(rescale ? rows.div(max(rows.mean(), 1 / out)) : rows); // no row left: 0/(1/out), not 0/0
  return whole === null ? some : some.mul(whole);
}
