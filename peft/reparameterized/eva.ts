// EVA: LoRA whose A starts as the directions in which the layer's input varies most; B is zero and the weight stays as it was.
//   X − mean = U S Vᵀ over all tokens of some batches (incrementally),   A = V_rᵀ,   y = W x + b + s·B A drop(x)
//   ranks: of the ρ·r first directions of every layer, those that explain most of their layer's variance get the n·r ranks there are
// Paischer et al. 2024, arXiv 2410.07170, §3; the mean is taken off as in the authors' code. s = α/r for every layer, whatever its rank.
import { param } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between, rankFits } from '../check.ts';
import { principals } from './evaRanks.ts';
import { checkUpdate, type Factors, type UpdateConfig, update } from './lora.ts';

export interface EvaConfig extends UpdateConfig {
  /** Ranks that differ from `rank`, by path: what `evaRanks` answers. */
  readonly ranks: Readonly<Record<string, number>>;
  readonly tau: number; // batches are enough once every direction's cosine with the one before exceeds this
}
const rankOf = ({ rank, ranks }: Pick<EvaConfig, 'rank' | 'ranks'>, { path }: { readonly path: string }): number => ranks[path] ?? rank;

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
