// UniLoRA: all LoRA factors of a model are copies of the numbers of one short vector, each at fixed random places.
//   y = W x + b + B A drop(x),   every element of every A and B is θ_i/√n_i,   i its fixed index, n_i how often i is used
// arXiv 2506.00799, §3: such a projection θ ∈ ℝᵈ → ℝᴰ keeps lengths. Every index serves ⌊D/d⌋ or ⌈D/d⌉ elements. θ ~ U(±0.02), so it
// does not start as the base; there is no α.
import { gather } from '../../core/ops/index.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { dropoutFits, rankFits, wholeNumber } from '../check.ts';
import { dropped } from './lora.ts';
import { laidOut, type Shared } from './uniLoraIndices.ts';

export interface UniLoraConfig {
  readonly rank: number;
  readonly size: number; // d, the numbers trained in the whole model
  readonly bound: number; // θ ~ U(±bound)
  readonly dropout: number; // on x, on this branch only
}
type UniLora = Pick<Shared, 'theta' | 'norm'> & { indexA: Tensor; indexB: Tensor };

/** A [r, in] and B [out, r], read from θ/√n. */
function matrices({ theta, norm, indexA, indexB }: UniLora): { A: Tensor; B: Tensor } {
  const values = theta.mul(norm).reshape(-1, 1);
  return { A: gather(values, indexA).reshape(...indexA.shape), B: gather(values, indexB).reshape(...indexB.shape) };
}

/** Count: d for the whole model; stored besides: how often each number is used, and an index for every element. */
export const uniLora = defineMethod<'linear', UniLoraConfig, UniLora, Shared>({
  name: 'uniLora',
  family: 'reparameterized',
  paper: 'arXiv:2506.00799',
  at: 'linear',
  defaults: { rank: 4, size: 256, bound: 0.02, dropout: 0, where: ['q', 'v'] },
  check: (site, c) => {
    rankFits('uniLora', site, c.rank);
    wholeNumber('uniLora', 'size', c.size);
    dropoutFits('uniLora', c.dropout);
    if (!(c.bound > 0)) throw new RangeError(`uniLora: bound ${c.bound} must be positive: at θ = 0 neither A nor B has a gradient`);
  },
  shared: laidOut,
  init: ({ path, shape: [out, into] }, { rank }, _, { shared: { theta, norm, indices } }) => {
    const mine = indices.get(path)!;
    return {
      train: { theta },
      fixed: {
        norm,
        indexA: leaf(mine.subarray(0, rank * into!), [rank, into!]),
        indexB: leaf(mine.subarray(rank * into!), [out!, rank]),
      },
    };
  },
  around: (call, p, c, site) => {
    const { A, B } = matrices(p);
    return (x, ctx) => call(x, ctx).add(dropped(x, c, site, ctx).matmul(A.T).matmul(B.T));
  },
  fold: ({ weight, bias }, p) => {
    const { A, B } = matrices(p);
    return { weight: weight.add(B.matmul(A)), bias };
  },
  count: (sites, { rank, size }) => {
    const indices = sites.reduce((n, { shape: [out, into] }) => n + rank * (out! + into!), 0);
    return { train: size, stored: 2 * size + indices };
  },
  startsAsBase: () => 'no',
});
