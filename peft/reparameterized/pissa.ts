// PiSSA: LoRA that starts from the weight's own principal directions; the base keeps what is left of it.
//   W = U S Vᵀ,   B = U_r √(S_r/s),   A = √(S_r/s) V_rᵀ,   W_res = W − s·B A,   y = W_res x + b + s·B A drop(x)
// Meng et al. 2024, arXiv 2404.02948, §3. The factorisation runs on the host: exact, or randomised with a few power iterations.
import { concat } from '../../core/ops/move.ts';
import { rng } from '../../core/rng.ts';
import { type Data, leaf, param } from '../../core/tensor.ts';
import { type AnyLayer, BASE, isLayer, type Model } from '../../nn/layer.ts';
import { layers, mapTensors, rewrite, tensors } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { replaceable } from '../check.ts';
import { product, randomizedSvd, type Svd, svd } from '../linalg.ts';
import { atHand, effective } from '../site.ts';
import { checkUpdate, type Factors, lora, scaling, type UpdateConfig, update } from './lora.ts';

export interface PissaConfig extends UpdateConfig {
  readonly iterations: number | null; // power iterations of a randomised factorisation (16 is usual); null: exact
}

/** B and A with s·B A = U diag(S) Vᵀ. */
function halves({ u, s, vt }: Svd, out: number, into: number, scale: number): { a: Float64Array; b: Float64Array } {
  const rank = s.length;
  const root = s.map((v) => Math.sqrt(v / scale));
  const a = vt.map((v, k) => v * root[Math.floor(k / into)]!);
  const b = u.map((v, k) => v * root[k % rank]!);
  if (a.length !== rank * into || b.length !== out * rank) throw new Error(`unreachable: ${rank} triplets of a [${out}, ${into}] weight`);
  return { a, b };
}
const minus = (w: Data, d: Float64Array): Float64Array => Float64Array.from(w, (v, k) => v - d[k]!);

export const pissa = defineMethod<'linear', PissaConfig, Factors>({
  name: 'pissa',
  family: 'reparameterized',
  paper: 'arXiv:2404.02948',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, iterations: null, where: ['q', 'v'] },
  readsWeight: true,
  check: (site, c) => {
    checkUpdate('pissa')(site, c);
    replaceable(site.layer);
  },
  init: ({ shape: [out, into] }, c, r, given) => {
    const [w, s] = [given.weight(), scaling(c)];
    const principal = c.iterations === null ? svd(w, out!, into!, c.rank) : randomizedSvd(w, out!, into!, c.rank, c.iterations, r);
    const { a, b } = halves(principal, out!, into!, s);
    const taken = product(b, a, out!, c.rank, into!).map((v) => v * s);
    return { train: { A: param(a, [c.rank, into!]), B: param(b, [out!, c.rank]) }, base: leaf(minus(w, taken), [out!, into!]) };
  },
  ...update,
  startsAsBase: () => 'close', // W_res + s·B A = W up to rounding
});

/**
 * A model with PiSSA as the same model with LoRA of twice the rank on the untouched base, to be shared without the residual:
 *   A' = [A; A₀],  B' = [B | −B₀],  with s·B₀A₀ = W − W_res, so that W_res + s·B A = W + s·B'A'.
 * The factors are recipes: `realize` or `unfreeze` turns them into numbers. Throws where there is no PiSSA.
 */
export function asLora(model: Model): Model {
  const found = [...layers(model)].filter(({ layer }) => layer.attached?.method === 'pissa');
  const first = found[0]?.layer.attached?.application.config as PissaConfig | undefined; // a seam: a layer does not know its method's types
  if (first === undefined) throw new Error('asLora: no layer of this model has PiSSA attached');
  const parts = new Map(found.map(({ path, layer }) => [path, { own: ownOf(layer), start: startOf(layer, path, first) }]));
  const plain = rewrite(model, (l) => (l.attached?.method === 'pissa' ? l.attached.under : null));
  const before = new Set([...tensors(plain)].map(({ tensor }) => tensor));
  const twice = { ...first, rank: 2 * first.rank, alpha: first.alpha * (first.rankStabilized ? Math.SQRT2 : 2) };
  const { dropout, rank, alpha, rankStabilized } = twice;
  return mapTensors(lora({ dropout, rank, alpha, rankStabilized, where: [...parts.keys()] })(plain), (t, path) => {
    if (before.has(t)) return t;
    const [, site, factor] = /^(.*)\.lora\d*\.([AB])$/.exec(path) ?? [];
    const at = site === undefined ? undefined : parts.get(site);
    if (at === undefined) return t;
    return factor === 'A' ? concat([at.own.A, at.start.A], 0) : concat([at.own.B, at.start.B.neg()], 1);
  });
}
const ownOf = (l: AnyLayer): Factors => l.fields[l.attached!.field] as Factors; // the same seam

/** B₀ and A₀ again, from what PiSSA took out of the weight: a matrix of rank r. */
function startOf(l: AnyLayer, path: string, c: PissaConfig): Factors {
  const base = l.fields[BASE];
  const w = atHand(effective(l.attached!.under, path).weight);
  const rest = isLayer(base) ? atHand(effective(base, path).weight) : null;
  if (w === null || rest === null) throw new Error(`asLora: the weight of ${path} has to be computed first: await realize(model, engine)`);
  const [, into] = ownOf(l).A.shape as [number, number];
  const out = w.length / into;
  const { a, b } = halves(randomizedSvd(minus(w, Float64Array.from(rest)), out, into, c.rank, 1, rng(0)), out, into, scaling(c));
  return { A: leaf(a, [c.rank, into]), B: leaf(b, [out, c.rank]) };
}
