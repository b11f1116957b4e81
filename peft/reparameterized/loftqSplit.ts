// LoftQ's decomposition of one weight: quantised and corrected by turns, of which the best is kept.
//   R₀ = W;  for t = 1 … T:  Q_t = quantised R_{t−1},  s·B_tA_t = best rank r of W − Q_t,  R_t = W − s·B_tA_t
import type { Rng } from '../../core/rng.ts';
import type { Data } from '../../core/tensor.ts';
import { length, product, randomizedSvd, type Svd, svd } from '../linalg.ts';
import type { LoftqConfig } from './loftq.ts';
import { minus } from './residual.ts';

export interface Split {
  /** What is packed: W without the correction found one turn earlier. */
  readonly kept: Data;
  /** The correction's singular triplets. */
  readonly change: Svd;
  /** ‖W − Q_t − s·B_tA_t‖ of every turn. */
  readonly errors: readonly number[];
}
/** W [out, in] as a quantised part and one of low rank: the better of T turns. Throws on NaN and infinities. */
export function alternate(
  w: Data,
  out: number,
  into: number,
  c: Pick<LoftqConfig, 'rank' | 'scheme' | 'iterations' | 'power'>,
  r: Rng,
): Split {
  const errors: number[] = [];
  const best: { split: Omit<Split, 'errors'> | null } = { split: null };
  let kept: Data = w;
  for (let t = 0; t < c.iterations; t++) {
    const lost = minus(w, c.scheme.round(kept, [out, into]));
    const change = c.power === null ? svd(lost, out, into, c.rank) : randomizedSvd(lost, out, into, c.rank, c.power, r);
    const low = product(
      change.u.map((v, k) => v * change.s[k % c.rank]!),
      change.vt,
      out,
      c.rank,
      into,
    );
    const error = length(minus(lost, low));
    if (errors.every((e) => error < e)) best.split = { kept, change };
    errors.push(error);
    kept = minus(w, low);
  }
  if (best.split === null) throw new RangeError('loftq: the weight holds NaN, so no turn is better than another');
  return { ...best.split, errors };
}
