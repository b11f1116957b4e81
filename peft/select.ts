// The k best of many scores, in one tensor or over all of them together.
import type { Data } from '../core/tensor.ts';

/**
 * Positions of the k largest scores in each list, ascending, chosen over all lists together. Of equal scores the earlier one
 * is taken, so that there are exactly k. Throws when k is not in 0 … their number, or a score is not a number.
 */
export function largest(scores: readonly Data[], k: number): number[][] {
  const offsets = scores.reduce<number[]>(
    (at, s) => {
      at.push(at.at(-1)! + s.length);
      return at;
    },
    [0],
  );
  const total = offsets.at(-1)!;
  if (!Number.isInteger(k) || k < 0 || k > total) throw new RangeError(`largest: cannot choose ${k} of ${total} scores`);
  const all = new Float64Array(total);
  for (const [n, s] of scores.entries()) all.set(s, offsets[n]!);
  const bad = all.findIndex(Number.isNaN);
  if (bad >= 0) throw new RangeError(`largest: score ${bad} is not a number`);
  const threshold = k === 0 ? Number.POSITIVE_INFINITY : all.slice().sort()[total - k]!;
  let ties = k - all.reduce((n, v) => n + (v > threshold ? 1 : 0), 0); // equal to the threshold and still wanted
  return scores.map((s) => {
    const chosen: number[] = [];
    for (const [j, v] of s.entries()) {
      if (v > threshold || (v === threshold && ties-- > 0)) chosen.push(j);
    }
    return chosen;
  });
}
