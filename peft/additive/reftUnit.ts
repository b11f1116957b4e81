// A unit of ReFT: hidden states edited in a low-rank subspace.
//   LoReFT  h + Rᵀ(W h + b − R h), R Rᵀ = I;   NoReFT  the same with any R;   DiReFT  h + Rᵀ(W h + b);   R, W ∈ ℝ^{r×d}
// Wu et al. 2024, arXiv 2404.03592, §3.2.
import type { Rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { orthonormal } from './gramSchmidt.ts';

/** W [r, d], b [r], R [r, d] of each unit: the prefix's, then the suffix's. */
export type Reft = { readonly W: readonly Tensor[]; readonly b: readonly Tensor[]; readonly R: readonly Tensor[] };

/** W, b, and an R that need not be orthonormal U(±1/√d), the other R N(0, 1). */
export function newUnits(n: number, rank: number, d: number, isOrthonormal: boolean, r: Rng): Reft {
  const each = (what: string, make: (at: Rng) => Tensor): Tensor[] => Array.from({ length: n }, (_, k) => make(r.split(`${what} ${k}`)));
  const linear = (at: Rng, size: number): Float32Array => at.uniform(size, -1 / Math.sqrt(d), 1 / Math.sqrt(d));
  return {
    W: each('W', (at) => param(linear(at, rank * d), [rank, d])),
    b: each('b', (at) => param(linear(at, rank), [rank], { decay: false })),
    R: each('R', (at) => param(isOrthonormal ? at.normal(rank * d) : linear(at, rank * d), [rank, d])),
  };
}

/** h [B, T, d] edited by unit k; `subtracts`: what h has in the subspace is taken away. */
export function editedBy({ W, b, R }: Reft, k: number, h: Tensor, isOrthonormal: boolean, subtracts: boolean): Tensor {
  const rows = isOrthonormal ? orthonormal(R[k]!) : R[k]!;
  const source = h.matmul(W[k]!.T).add(b[k]!); // [B, T, r]
  return h.add((subtracts ? source.sub(h.matmul(rows.T)) : source).matmul(rows));
}
