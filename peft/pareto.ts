// Two aims at once, a loss to make small and a size to make small: what nothing beats in both, and the area that it beats.
import { normalCdf, normalDensity } from '../core/normal.ts';
export interface Point {
  readonly loss: number;
  readonly size: number;
}

/** At least as good in both, better in one. */
export const dominates = (a: Point, b: Point): boolean => a.loss <= b.loss && a.size <= b.size && (a.loss < b.loss || a.size < b.size);

/** Those that no other dominates, smallest first; of equals the first. A loss that is not a number is dominated by all. */
export function paretoFront<P extends Point>(all: readonly P[]): P[] {
  const sound = all.filter((t) => !Number.isNaN(t.loss));
  return sound
    .filter((t, k) => !sound.some((o, j) => dominates(o, t) || (j < k && o.loss === t.loss && o.size === t.size)))
    .sort((a, b) => a.size - b.size);
}

/** Sum over the sizes from `size` to the reference's of width · f(level), the level being the lowest loss of the front up to there. */
function overSteps(front: readonly Point[], reference: Point, size: number, f: (level: number) => number): number {
  let [sum, from, level] = [0, size, reference.loss];
  for (const p of front) {
    if (p.size >= reference.size) break;
    if (p.size > from) {
      sum += (p.size - from) * f(level);
      from = p.size;
    }
    level = Math.min(level, p.loss);
  }
  return sum + Math.max(reference.size - from, 0) * f(level);
}

/** The area dominated by a front (as `paretoFront` gives it) and not worse than the reference in either aim. */
export const hypervolume = (front: readonly Point[], reference: Point): number =>
  overSteps(front, reference, Math.min(reference.size, front[0]?.size ?? reference.size), (level) => reference.loss - level);

/**
 * What a point of a known size and a loss ~ N(mean, deviation²) is expected to add to the hypervolume: by E max(l − Y, 0) =
 * (l − μ)Φ(z) + σφ(z), z = (l − μ)/σ, at every level l of the front from its size on.
 */
export const expectedImprovement = (
  front: readonly Point[],
  reference: Point,
  { size, mean, deviation }: { readonly size: number; readonly mean: number; readonly deviation: number },
): number =>
  overSteps(front, reference, size, (level) => {
    if (deviation === 0) return Math.max(level - mean, 0);
    const z = (level - mean) / deviation;
    return (level - mean) * normalCdf(z) + deviation * normalDensity(z);
  });
