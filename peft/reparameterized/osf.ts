// OSF: of the weight's singular directions the large ones stay, the small ones are trained, and never into the large ones' space.
//   W = U_h S_h V_hᵀ + U_l S_l V_lᵀ,   y = U_h S_h V_hᵀ x + b + U_l S_l V_lᵀ x,   U_l, S_l, V_l trained
//   ∂U_l ← ∂U_l − U_h U_hᵀ ∂U_l,   ∂V_l ← ∂V_l − V_h V_hᵀ ∂V_l
// arXiv 2504.07097, as built in PEFT: for one task after another, since what the earlier ones use most is left alone. The optimizer
// sees the projected gradients; an adaptive one may still leave the subspace a little, there as here.
import { leaf, type Param, param, paramOf, type Tensor } from '../../core/tensor.ts';
import type { Grads } from '../../nn/hooks.ts';
import { defineMethod } from '../attach.ts';
import { replaceable } from '../check.ts';
import { product, svd } from '../linalg.ts';

export interface OsfConfig {
  readonly kept: number | null; // e, directions that stay; half of the smaller side when null
}
type Osf = { U: Tensor; S: Tensor; V: Tensor; keptU: Tensor; keptV: Tensor }; // [out, k − e], [k − e], [k − e, in], [out, e], [e, in]
const ranks = ([out, into]: readonly number[], { kept }: OsfConfig): { e: number; low: number } => {
  const k = Math.min(out!, into!);
  const e = kept ?? Math.floor(k / 2);
  return { e, low: k - e };
};

/** Count: (k − e)(in + out + 1) for each layer, k its smaller side. */
export const osf = defineMethod<'linear', OsfConfig, Osf>({
  name: 'osf',
  family: 'reparameterized',
  paper: 'arXiv:2504.07097',
  at: 'linear',
  defaults: { kept: null, where: /\bblocks\b/ },
  takes: { kept: [null, Number] },
  readsWeight: true,
  check: (site, c) => {
    replaceable(site.layer);
    const { e, low } = ranks(site.shape, c);
    if (!Number.isInteger(e) || e < 1 || low < 1)
      throw new RangeError(`osf: kept ${e} at ${site.path} must be a whole number from 1 to ${e + low - 1}, below the smaller side`);
  },
  init: ({ shape }, c, _, { weight }) => {
    const [out, into] = shape as [number, number];
    const { e, low } = ranks(shape, c);
    const { u, s, vt } = svd(weight(), out, into, e + low);
    const columns = (from: number, to: number): Float64Array =>
      Float64Array.from({ length: out * (to - from) }, (_v, k) => u[Math.floor(k / (to - from)) * (e + low) + from + (k % (to - from))]!);
    const [keptU, keptV] = [columns(0, e), vt.slice(0, e * into)];
    const main = product(
      keptU.map((v, k) => v * s[k % e]!),
      keptV,
      out,
      e,
      into,
    );
    return {
      train: { U: param(columns(e, e + low), [out, low]), S: param(s.slice(e), [low]), V: param(vt.slice(e * into), [low, into]) },
      fixed: { keptU: leaf(keptU, [out, e]), keptV: leaf(keptV, [e, into]) },
      base: leaf(main, [out, into]),
    };
  },
  around:
    (call, { U, S, V }) =>
    (x, ctx) =>
      call(x, ctx).add(x.matmul(V.T).mul(S).matmul(U.T)),
  fold: ({ weight, bias }, { U, S, V }) => ({ weight: weight.add(U.mul(S).matmul(V)), bias }),
  hooks: ({ U, V, keptU, keptV }) => ({
    afterGrad: (grads): Grads => {
      const [u, v] = [paramOf(U)!, paramOf(V)!];
      const [du, dv] = [grads.get(u)!, grads.get(v)!];
      return new Map<Param, Tensor>([
        ...grads,
        [u, du.sub(keptU.matmul(keptU.T.matmul(du)))],
        [v, dv.sub(dv.matmul(keptV.T).matmul(keptV))],
      ]);
    },
  }),
  count: (sites, c) => {
    const each = sites.map(({ shape }) => ({ sides: shape[0]! + shape[1]!, ...ranks(shape, c) }));
    const train = each.reduce((n, { low, sides }) => n + low * (sides + 1), 0);
    return { train, stored: train + each.reduce((n, { e, sides }) => n + e * sides, 0) };
  },
  startsAsBase: () => 'close', // the two parts are W up to rounding
});
