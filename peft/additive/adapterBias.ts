// AdapterBias: one vector for each feed-forward sublayer, added to every token as much as a linear layer says.
//   y = W x + b + (αᵀx + c)·v,   x the f activations that the last layer of the feed-forward reads;   merged: W + v αᵀ,  b + c v
// Fu et al. 2022, arXiv 2205.00305, §3, as in the authors' code: v = 0 at the start, α and c ~ U(±1/√f).
import type { Rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';

export interface AdapterBiasConfig {
  readonly shared: boolean; // one α and c for all layers (the authors' --share_alpha)
}
type AdapterBias = { readonly v: Tensor; readonly alpha: Tensor; readonly c: Tensor }; // [d], [1, f], [1]

const newAlpha = (f: number, r: Rng): Pick<AdapterBias, 'alpha' | 'c'> => ({
  alpha: param(r.split('alpha').uniform(f, -1 / Math.sqrt(f), 1 / Math.sqrt(f)), [1, f]),
  c: param(r.split('c').uniform(1, -1 / Math.sqrt(f), 1 / Math.sqrt(f)), [1], { decay: false }),
});

/**
 * On the last linear layer of each feed-forward network. It is LoRA of rank 1 with a bias along the same vector. The
 * first gradient goes to v alone. Learning rate 1e-4 in the authors' example. Count: d + f + 1 for each place; with `shared` d each, and f + 1.
 */
export const adapterBias = defineMethod<'linear', AdapterBiasConfig, AdapterBias, Pick<AdapterBias, 'alpha' | 'c'> | null>({
  name: 'adapterBias',
  family: 'additive',
  paper: 'arXiv:2205.00305',
  at: 'linear',
  defaults: { shared: false, where: 'down' },
  shared: (sites, { shared }, r) => {
    if (!shared) return null;
    const odd = sites.find((s) => s.shape[1] !== sites[0]!.shape[1]);
    if (odd !== undefined)
      throw new RangeError(
        `adapterBias: ${odd.path} reads ${odd.shape[1]} numbers and ${sites[0]!.path} ${sites[0]!.shape[1]}, so they cannot share one α; choose places of one width, or shared: false`,
      );
    return newAlpha(sites[0]!.shape[1]!, r);
  },
  init: ({ shape: [d, f] }, _, r, { shared }) => ({
    train: { v: param(new Float32Array(d!), [d!], { decay: false }), ...(shared ?? newAlpha(f!, r)) },
  }),
  around:
    (call, { v, alpha, c }) =>
    (x, ctx) =>
      call(x, ctx).add(x.matmul(alpha.T).add(c).mul(v)),
  byRow: true,
  fold: ({ weight, bias }, { v, alpha, c }) => ({
    weight: weight.add(v.reshape(-1, 1).mul(alpha)),
    bias: bias === null ? v.mul(c) : bias.add(v.mul(c)),
  }),
  count: (sites, { shared }) => {
    const train = sites.reduce((n, { shape: [d, f] }, k) => n + d! + (shared && k > 0 ? 0 : f! + 1), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
