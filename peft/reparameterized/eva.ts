// EVA: LoRA whose A starts as the directions in which the layer's input varies most; B is zero and the weight stays as it was.
//   X − mean = U S Vᵀ over all tokens of some batches (incrementally),   A = V_rᵀ,   y = W x + b + s·B A drop(x)
//   ranks: of the ρ·r first directions of every layer, those that explain most of their layer's variance get the n·r ranks there are
// Paischer et al. 2024, arXiv 2410.07170, §3; the mean is taken off as in the authors' code. s = α/r for every layer, whatever its rank.
import { param } from '../../core/tensor.ts';
import type { Model } from '../../nn/layer.ts';
import { defineMethod } from '../attach.ts';
import { between, rankFits } from '../check.ts';
import { svd } from '../linalg.ts';
import type { Env } from '../method.ts';
import { observe } from '../observe.ts';
import { pick, type Site, type Where } from '../site.ts';
import { checkUpdate, type Factors, type UpdateConfig, update } from './lora.ts';

export interface EvaConfig extends UpdateConfig {
  /** Ranks that differ from `rank`, by path: what `evaRanks` answers. */
  readonly ranks: Readonly<Record<string, number>>;
  readonly tau: number; // batches are enough once every direction's cosine with the one before exceeds this
}
const rankOf = ({ rank, ranks }: Pick<EvaConfig, 'rank' | 'ranks'>, { path }: { readonly path: string }): number => ranks[path] ?? rank;

/** Principal directions of rows seen so far: count, mean, singular values, directions, and the sum of squared deviations. */
interface Principal {
  readonly n: number;
  readonly mean: Float64Array;
  readonly s: Float64Array;
  readonly vt: Float64Array; // [k, in]
  readonly total: number;
}
/** The same after more rows [m, in]: their deviations, what was known, and the step between the means (Ross et al. 2008, §3.1). */
export function afterRows(known: Principal | null, rows: Float64Array, into: number, most: number): Principal {
  const m = rows.length / into;
  const n = (known?.n ?? 0) + m;
  const own = Float64Array.from({ length: into }, (_, i) => rows.reduce((sum, v, k) => (k % into === i ? sum + v : sum), 0) / m);
  const off = rows.map((v, k) => v - own[k % into]!);
  const step = known === null ? new Float64Array(0) : own.map((v, i) => Math.sqrt((known.n * m) / n) * (known.mean[i]! - v));
  const scaled = known === null ? new Float64Array(0) : known.vt.map((v, k) => v * known.s[Math.floor(k / into)]!);
  const all = Float64Array.from([...scaled, ...off, ...step]);
  const { s, vt } = svd(all, all.length / into, into, Math.min(most, into, all.length / into));
  const squares = (a: Float64Array): number => a.reduce((sum, v) => sum + v * v, 0);
  return {
    n,
    mean: own.map((v, i) => (known === null ? v : (known.n * known.mean[i]! + m * v) / n)),
    s,
    vt,
    total: (known?.total ?? 0) + squares(off) + squares(step),
  };
}

async function principals(
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
    if (before !== null && now !== null && steady(before.vt, now.vt, into, tau)) settled++;
  }
  return found.map((f, k) => {
    const wanted = most(sites[k]!);
    if (f !== null && f.s.length >= wanted) return f;
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
const steady = (a: Float64Array, b: Float64Array, into: number, tau: number): boolean =>
  a.length === b.length &&
  Array.from({ length: a.length / into }, (_, k) => k * into).every(
    (k) => Math.abs(a.subarray(k, k + into).reduce((dot, v, i) => dot + v * b[k + i]!, 0)) > tau,
  );

/**
 * Ranks by explained variance, to be spread into EVA's options: `eva({ rank, ...(await evaRanks(model, env, { rank, rho, where })) })`. Layers that get
 * none are left out of `where`. ρ (2) caps a layer's rank at ρ·rank.
 */
export async function evaRanks(
  model: Model,
  env: Env,
  { rank = 8, rho = 2, tau = 0.99, where = ['q', 'v'] as Where }: { rank?: number; rho?: number; tau?: number; where?: Where } = {},
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

export const eva = defineMethod<'linear', EvaConfig, Factors, null, readonly Float64Array[]>({
  name: 'eva',
  family: 'reparameterized',
  paper: 'arXiv:2410.07170',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, ranks: {}, tau: 0.99, where: ['q', 'v'] },
  check: (site, c) => {
    checkUpdate('eva')(site, { ...c, rank: rankOf(c, site) });
    rankFits('eva', site, rankOf(c, site));
    between('eva', 'tau', c.tau, 0, 1, true);
  },
  prepare: async (sites, c, env) => (await principals(sites, (s) => rankOf(c, s), c.tau, env)).map(({ vt }) => vt),
  init: (site, c, _, { prepared }) => {
    const [out, into] = site.shape as [number, number];
    const rank = rankOf(c, site);
    return { train: { A: param(prepared[site.index]!, [rank, into]), B: param(new Float32Array(out * rank), [out, rank]) } };
  },
  ...update,
  count: (sites, c) => {
    const train = sites.reduce((n, s) => n + rankOf(c, s) * (s.shape[0]! + s.shape[1]!), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
