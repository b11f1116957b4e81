// How many numbers AdaMSS trains and stores: as its start has it, or, before there is one, with every cluster of full rank.
import type { Site } from '../site.ts';
import type { AdamssConfig } from './adamss.ts';
import type { Start } from './adamssStart.ts';

/** Of all layers: Σ_k r_k(R + rows_k) trained; V, its column for the bias and where rows went stored besides. */
export function countOf(
  sites: readonly Site<'linear'>[],
  c: AdamssConfig,
  prepared?: readonly Start[] | null,
): { train: number; stored: number } {
  const each = sites.map((s, k) => {
    const [out, into] = s.shape as [number, number];
    const known = prepared?.[k];
    const cols = into + ((known === undefined ? s.bias() : known.shift) === null ? 0 : 1);
    const R = known?.directions ?? Math.min(c.directions, out, cols);
    const r = Math.min(c.rank, R);
    const train =
      known === undefined
        ? Math.min(c.subspaces, out) * r * R + r * out
        : known.clusters.reduce((n, { rows, rank }) => n + rank * (R + rows.length), 0);
    return { train, stored: train + R * cols + out };
  });
  return { train: each.reduce((n, e) => n + e.train, 0), stored: each.reduce((n, e) => n + e.stored, 0) };
}
