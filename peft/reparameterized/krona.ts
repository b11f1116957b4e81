// KronA: the update of a weight as one Kronecker product of two full factors.
//   y = W x + b + s·(A ⊗ B) x,   A ∈ ℝ^{a×a'}, B ∈ ℝ^{b×b'}, out = a·b, in = a'·b'
// Edalati et al. 2022, arXiv 2212.10650, §4.1. The rank of A ⊗ B is rank(A)·rank(B): it may be full.
import type { Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { factorization, kron, timesKron } from '../transforms.ts';
import { kaiming, zeros } from './lycoris.ts';

export interface KronaConfig {
  readonly factor: number; // size of A's sides, where it divides; −1: as near to the root of the weight's sides as they divide
  readonly scale: number; // s
}
type Krona = { A: Tensor; B: Tensor };
const shapes = ([out, into]: readonly number[], { factor }: KronaConfig): { A: [number, number]; B: [number, number] } => {
  const [[a, b], [a2, b2]] = [factorization(out!, factor), factorization(into!, factor)];
  return { A: [a, a2], B: [b, b2] };
};

/** A starts Kaiming-uniform and B at 0. Count: a·a' + b·b', smallest where the factors are nearly square. */
export const krona = defineMethod<'linear', KronaConfig, Krona>({
  name: 'krona',
  family: 'reparameterized',
  paper: 'arXiv:2212.10650',
  at: 'linear',
  defaults: { factor: -1, scale: 1, where: ['q', 'v'] },
  check: (site, { factor, scale }) => {
    if (!Number.isInteger(factor) || (factor < 1 && factor !== -1))
      throw new RangeError(`krona: factor ${factor} at ${site.path} must be a whole number from 1, or −1 for the squarest factors`);
    if (!(scale > 0)) throw new RangeError(`krona: scale ${scale} must be positive; 1 is usual`);
  },
  init: ({ shape }, c, r) => ({ train: { A: kaiming(shapes(shape, c).A, r), B: zeros(shapes(shape, c).B) } }),
  around:
    (call, { A, B }, { scale }) =>
    (x, ctx) =>
      call(x, ctx).add(timesKron(x, A, B).mul(scale)),
  fold: ({ weight, bias }, { A, B }, { scale }) => ({ weight: weight.add(kron(A, B).mul(scale)), bias }),
  count: (sites, c) => {
    const train = sites.reduce((n, s) => {
      const { A, B } = shapes(s.shape, c);
      return n + A[0] * A[1] + B[0] * B[1];
    }, 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
