// Which entries of weights are trained: the k best of many scores, and their places as a sparse matrix has them.
import type { Places } from '../core/ops/sparse.ts';
import type { Rng } from '../core/rng.ts';
import { type Shape, show, table } from '../core/shape.ts';
import { type Data, leaf } from '../core/tensor.ts';

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

/** Places as leaves, from flat row-major positions in a tensor of this shape. Throws on one that is outside, or twice there. */
export function placesAt(positions: ArrayLike<number>, shape: Shape): Places {
  const { rows, cols } = table(shape);
  const sorted = Float64Array.from(positions).sort();
  const start = new Int32Array(rows + 1);
  const col = new Int32Array(sorted.length);
  for (const [j, p] of sorted.entries()) {
    if (!Number.isInteger(p) || p < 0 || p >= rows * cols || p === sorted[j - 1])
      throw new RangeError(
        `placesAt: position ${p} is ${p === sorted[j - 1] ? 'there twice' : `outside a tensor of shape ${show(shape)}`}`,
      );
    start[Math.floor(p / cols) + 1]!++;
    col[j] = p % cols;
  }
  for (let r = 0; r < rows; r++) start[r + 1]! += start[r]!;
  return { start: leaf(start, [rows + 1]), col: leaf(col, [sorted.length]) };
}

/** k different whole numbers below n, in random order, in memory for k of them (Floyd). */
export function sample(k: number, n: number, r: Rng): number[] {
  const chosen = new Set<number>();
  for (let top = n - k; top < n; top++) {
    const p = r.below(top + 1);
    chosen.add(chosen.has(p) ? top : p);
  }
  return [...chosen];
}
