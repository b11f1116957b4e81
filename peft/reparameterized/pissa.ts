// PiSSA: LoRA that starts from the weight's own principal directions; the base keeps what is left of it.
//   W = U S Vᵀ,   B = U_r √(S_r/s),   A = √(S_r/s) V_rᵀ,   W_res = W − s·B A,   y = W_res x + b + s·B A drop(x)
// Meng et al. 2024, arXiv 2404.02948, §3. The factorisation runs on the host: exact, or randomised with a few power iterations.
import { concat } from '../../core/ops/move.ts';
import { rng } from '../../core/rng.ts';
import { leaf } from '../../core/tensor.ts';
import { type AnyLayer, BASE, isLayer, type Model } from '../../nn/layer.ts';
import { layers, rewrite } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import { randomizedSvd, svd } from '../linalg.ts';
import { atHand, effective } from '../site.ts';
import { type Factors, scaling, type UpdateConfig, update } from './lora.ts';
import { checkTaken, halved, minus, takenOut } from './residual.ts';
import { withFactors } from './withFactors.ts';

export interface PissaConfig extends UpdateConfig {
  readonly iterations: number | null; // power iterations of a randomised factorisation (16 is usual); null: exact
}

export const pissa = defineMethod<'linear', PissaConfig, Factors>({
  name: 'pissa',
  family: 'reparameterized',
  paper: 'arXiv:2404.02948',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, iterations: null, where: ['q', 'v'] },
  takes: { iterations: [null, Number] },
  readsWeight: true,
  check: (site, c) => {
    checkTaken('pissa')(site, c);
    if (c.iterations !== null) wholeNumber('pissa', 'iterations', c.iterations, 0);
  },
  init: (site, c, r, given) => {
    const [w, [out, into]] = [given.weight(), site.shape as [number, number]];
    const { u, s, vt } = c.iterations === null ? svd(w, out, into, c.rank) : randomizedSvd(w, out, into, c.rank, c.iterations, r);
    const { a, b } = halved(u, s, vt, scaling(c));
    return takenOut(w, a, b, site, c);
  },
  ...update,
  startsAsBase: () => 'close', // W_res + s·B A = W up to rounding
});

/**
 * A model with PiSSA, or with another `method` that takes its start out of the weight (olora, corda, loraGa), as the same model with LoRA of twice
 * the rank on the untouched base, to be shared without the residual:
 *   A' = [A; A₀],  B' = [B | −B₀],  with s·B₀A₀ = W − W_res, so that W_res + s·B A = W + s·B'A'.
 * The factors are recipes: `realize` or `unfreeze` turns them into numbers. Throws where there is no such method.
 */
export function asLora(model: Model, method = 'pissa'): Model {
  const found = [...layers(model)].filter(({ layer }) => layer.attached?.method === method);
  const first = found[0]?.layer.attached?.application.config as PissaConfig | undefined; // a seam: a layer does not know its method's types
  if (first === undefined) throw new Error(`asLora: no layer of this model has ${method} attached`);
  const at = new Map(
    found.map(({ path, layer }) => {
      const [own, start] = [layer.fields[layer.attached!.field] as Factors, startOf(layer, path, first)]; // the same seam
      return [path, { A: concat([own.A, start.A], 0), B: concat([own.B, start.B.neg()], 1) }] as const;
    }),
  );
  const plain = rewrite(model, (l) => (l.attached?.method === method ? l.attached.under : null));
  const { dropout, rank, alpha, rankStabilized } = first;
  return withFactors(plain, at, { dropout, rank: 2 * rank, alpha: alpha * (rankStabilized ? Math.SQRT2 : 2), rankStabilized });
}

/** B₀ and A₀ again, from what was taken out of the weight: a matrix of rank r. */
function startOf(l: AnyLayer, path: string, c: PissaConfig): Factors {
  const base = l.fields[BASE];
  const w = atHand(effective(l.attached!.under, path).weight);
  const rest = isLayer(base) ? atHand(effective(base, path).weight) : null;
  if (w === null || rest === null) throw new Error(`asLora: the weight of ${path} has to be computed first: await realize(model, engine)`);
  const [, into] = (l.fields[l.attached!.field] as Factors).A.shape as [number, number];
  const out = w.length / into;
  const { u, s, vt } = randomizedSvd(minus(w, rest), out, into, c.rank, 1, rng(0));
  const { a, b } = halved(u, s, vt, scaling(c));
  return { A: leaf(a, [c.rank, into]), B: leaf(b, [out, c.rank]) };
}
