// CorDA: LoRA that starts from the weight's principal directions as seen by the layer's own input; the base keeps the rest.
//   C = mean over batches of X̂ᵀX̂, X̂ = X/|max X|, damped by 0.01·mean(diag C)·I (doubled until ‖C C⁻¹ − I‖ < 0.05)
//   W C = U S Vᵀ,  V̂ᵀ = Vᵀ C⁻¹;   B = U √(S/s), A = √(S/s) V̂ᵀ for r of the triplets,   W_res = W − s·B A
// Yang et al. 2024, arXiv 2406.05223, §3. `keep: 'first'` (instruction-previewed, IPM) trains the largest triplets, on data of the new task;
// `'last'` (knowledge-preserved, KPM) the smallest, on data of what should be kept. X̂ is not in the paper but in the authors' code, the
// magnitude outside the maximum as there.
import { abs } from '../../core/ops/map.ts';
import { maxOver } from '../../core/ops/reduce.ts';
import { defineMethod } from '../attach.ts';
import { inverse, length, meanDiagonal, plusDiagonal, product, svd } from '../linalg.ts';
import { observe } from '../observe.ts';
import { type Factors, scaling, type UpdateConfig, update } from './lora.ts';
import { checkTaken, halved, takenOut } from './residual.ts';

export interface CordaConfig extends UpdateConfig {
  readonly keep: 'first' | 'last';
}

/** C damped so that its inverse is one, and that inverse. */
function damped(c: Float64Array, n: number): { c: Float64Array; inverse: Float64Array } {
  const mean = meanDiagonal(c, n);
  for (let share = 0.01; ; share *= 2) {
    const now = plusDiagonal(c, n, share * mean);
    const back = inverse(now, n);
    if (length(plusDiagonal(product(now, back, n, n, n), n, -1)) < 0.05) return { c: now, inverse: back };
  }
}

export const corda = defineMethod<'linear', CordaConfig, Factors, null, readonly Float64Array[]>({
  name: 'corda',
  family: 'reparameterized',
  paper: 'arXiv:2406.05223',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, keep: 'first', where: ['q', 'v'] },
  takes: { keep: ['first', 'last'] },
  readsWeight: true,
  check: checkTaken('corda'),
  prepare: async (sites, _, env) => {
    const sums = sites.map((s) => new Float64Array(s.shape[1]! ** 2));
    const seen = observe('corda', sites, env, (x) => {
      const scaled = x.div(abs(maxOver(x)));
      return scaled.T.matmul(scaled);
    });
    for await (const { site, calls } of seen)
      for (const cov of calls) sums[site.index] = sums[site.index]!.map((v, k) => v + cov[k]! / (env.batches!.length * calls.length));
    for (const s of sites)
      if (!sums[s.index]!.every(Number.isFinite) || sums[s.index]!.every((v) => v === 0))
        throw new Error(`corda: the input of ${s.path} is zero or not finite on these batches; give prepare others`);
    return sums;
  },
  init: (site, c, _, given) => {
    const [out, into] = site.shape as [number, number];
    const cov = damped(given.prepared[site.index]!, into);
    const most = Math.min(out, into);
    const w = given.weight();
    const all = svd(product(w, cov.c, out, into, into), out, into, most);
    const from = c.keep === 'first' ? 0 : most - c.rank;
    const u = Float64Array.from({ length: out * c.rank }, (_, k) => all.u[Math.floor(k / c.rank) * most + from + (k % c.rank)]!);
    const vt = product(all.vt.subarray(from * into, (from + c.rank) * into), cov.inverse, c.rank, into, into);
    const { a, b } = halved(u, all.s.subarray(from, from + c.rank), vt, scaling(c));
    return takenOut(w, a, b, site, c);
  },
  ...update,
  startsAsBase: () => 'close', // W_res + s·B A = W up to rounding
});
