// How EVA shares out its ranks: the directions in which layers' inputs vary, and how much of the variance each explains.
import type { Model } from '../../nn/layer.ts';
import { between } from '../check.ts';
import type { Env } from '../method.ts';
import { observe } from '../observe.ts';
import { afterRows, type Principal, steady } from '../pca.ts';
import { orFused, pick, type Site, type Where } from '../site.ts';

/** Principal directions of every site's input, at most `most`, over batches until they are steady. */
export async function principals(
  sites: readonly Site<'linear'>[],
  most: (s: Site<'linear'>) => number,
  tau: number,
  env: Env,
): Promise<Principal[]> {
  const found: (Principal | null)[] = sites.map(() => null);
  let [settled, at] = [0, -1];
  for await (const { site, calls, batch } of observe('eva', sites, env, (x) => x)) {
    if (batch !== at && settled === sites.length) break;
    if (batch !== at) [settled, at] = [0, batch];
    const into = site.shape[1]!;
    const before = found[site.index]!;
    const rows = real(Float64Array.from(calls.flatMap((c) => [...c])), into);
    const now = rows.length === 0 ? before : afterRows(before, rows, into, most(site));
    found[site.index] = now;
    if (before !== null && now !== null && steady(before, now, tau)) settled++;
  }
  return found.map((f, k) => {
    const wanted = most(sites[k]!);
    if (f !== null && f.n > wanted && f.s.length >= wanted) return f; // n deviations from a mean have n − 1 directions
    throw new Error(
      `eva: ${sites[k]!.path} was given ${f?.n ?? 0} different tokens, too few for rank ${wanted}; give prepare more batches`,
    );
  });
}
/** Rows that are not all zero: padding was set to zero. */
const real = (rows: Float64Array, into: number): Float64Array => {
  const used = Array.from({ length: rows.length / into }, (_, k) => rows.subarray(k * into, (k + 1) * into)).filter((r) =>
    r.some((v) => v !== 0),
  );
  return Float64Array.from(used.flatMap((r) => [...r]));
};

/**
 * Ranks by explained variance, to be spread into EVA's options: `eva({ rank, ...(await evaRanks(model, env, { rank, rho, where })) })`. Layers that get
 * none are left out of `where`. ρ (2) caps a layer's rank at ρ·rank.
 */
export async function evaRanks(
  model: Model,
  env: Env,
  {
    rank = 8,
    rho = 2,
    tau = 0.99,
    where = orFused(['q', 'v'] as Where),
  }: { rank?: number; rho?: number; tau?: number; where?: Where } = {},
): Promise<{ readonly ranks: Readonly<Record<string, number>>; readonly where: readonly string[] }> {
  between('evaRanks', 'rho', rho, 1, Number.MAX_VALUE);
  const sites = pick(model, 'linear', where, 'eva');
  const most = (s: Site<'linear'>): number => Math.min(Math.round(rho * rank), ...s.shape);
  const shares = (await principals(sites, most, tau, env)).flatMap(({ s, total }, k) =>
    [...s].map((v) => ({ path: sites[k]!.path, share: v ** 2 / total })),
  );
  const ranks: Record<string, number> = {};
  for (const { path } of shares.sort((a, b) => b.share - a.share).slice(0, rank * sites.length)) ranks[path] = (ranks[path] ?? 0) + 1;
  return { ranks, where: Object.keys(ranks) };
}
