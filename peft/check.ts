// Configurations refused before anything is built.
import type { Kind } from '../nn/layer.ts';
import type { Site } from './site.ts';

/** 1 ≤ rank ≤ min(in, out) of the site's weight. */
export function rankFits(method: string, site: Site<Kind>, rank: number): void {
  const most = Math.min(...site.shape);
  if (!Number.isInteger(rank) || rank < 1 || rank > most)
    throw new RangeError(
      `${method}: rank ${rank} at ${site.path} must be a whole number from 1 to ${most}, the smaller side of its weight [${site.shape.join(', ')}]`,
    );
}
