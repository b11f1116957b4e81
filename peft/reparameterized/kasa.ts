// KaSA: the weight's smallest directions are dropped for good, and an update in the form of a singular value decomposition takes their place.
//   y = W_p x + b + s·B diag(Σ) A drop(x),   W_p = W without its r smallest singular values
//   loss + β Σ σᵢ² + γ (‖BᵀB − I‖ + ‖A Aᵀ − I‖) at each layer,   A as LoRA's, B = 0, Σ ~ N(0, 1)
// Wang et al. 2024, arXiv 2412.06071, eqs. 5–12. It does not start as the base, by what was dropped.
import { sqrt, square } from '../../core/ops/map.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between } from '../check.ts';
import { product, svd } from '../linalg.ts';
import { identity } from '../transforms.ts';
import { dropped, type Factors, factors, scaling, type UpdateConfig, update } from './lora.ts';
import { checkTaken, minus } from './residual.ts';

export interface KasaConfig extends UpdateConfig {
  readonly beta: number; // weight of Σ σ²
  readonly gamma: number; // weight of the factors' distance from orthonormal ones
}
type Kasa = Factors & { sigma: Tensor };

/** ‖X − I‖; the small addition keeps its slope finite at X = I. */
const fromIdentity = (x: Tensor): Tensor =>
  sqrt(
    square(x.sub(identity(x.shape[0]!)))
      .sum()
      .add(1e-12),
  );

/** Count: r(in + out) + r for each layer. */
export const kasa = defineMethod<'linear', KasaConfig, Kasa>({
  name: 'kasa',
  family: 'reparameterized',
  paper: 'arXiv:2412.06071',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, beta: 1e-4, gamma: 1e-3, where: ['q', 'v'] },
  readsWeight: true,
  check: (site, c) => {
    checkTaken('kasa')(site, c);
    for (const name of ['beta', 'gamma'] as const) between('kasa', name, c[name], 0, Number.POSITIVE_INFINITY);
    if (c.rank >= Math.min(...site.shape))
      throw new RangeError(`kasa: rank ${c.rank} at ${site.path} drops every singular value of [${site.shape.join(', ')}]; take fewer`);
  },
  init: (site, c, r, { weight }) => {
    const [out, into] = site.shape as [number, number];
    const all = Math.min(out, into);
    const { u, s, vt } = svd(weight(), out, into, all);
    const us = Float64Array.from({ length: out * c.rank }, (_, k) => {
      const j = all - c.rank + (k % c.rank);
      return u[Math.floor(k / c.rank) * all + j]! * s[j]!;
    });
    const noise = product(us, vt.slice((all - c.rank) * into), out, c.rank, into);
    return {
      train: { ...factors(site, { rank: c.rank, init: 'kaiming' }, r), sigma: param(r.split('sigma').normal(c.rank), [c.rank]) },
      base: leaf(minus(weight(), noise), [out, into]),
    };
  },
  around:
    (call, { A, B, sigma }, c, site) =>
    (x, ctx) =>
      call(x, ctx).add(dropped(x, c, site, ctx).matmul(A.T).mul(sigma).matmul(B.T).mul(scaling(c))),
  fold: ({ weight, bias }, { A, B, sigma }, c) => ({ weight: weight.add(B.mul(sigma).matmul(A).mul(scaling(c))), bias }),
  hooks: ({ A, B, sigma }, { beta, gamma }) => ({
    penalty: () =>
      square(sigma)
        .sum()
        .mul(beta)
        .add(
          fromIdentity(B.T.matmul(B))
            .add(fromIdentity(A.matmul(A.T)))
            .mul(gamma),
        ),
  }),
  count: (sites, c) => {
    const train = update.count(sites, c).train + sites.length * c.rank;
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});
