// VeLoRA's product A x: in backward A learns from what is left of x, one number z for each group of features times a direction v.
import { defineOp, type Op } from '../../core/op.ts';

/** A x, whose gradient for A is taken from x̂ = z ⊗ v: neither x nor x̂ is kept, and x̂ is never written down. */
export const compressed: Op<'x' | 'A' | 'z' | 'v', { scale: number }> = defineOp<'x' | 'A' | 'z' | 'v', { scale: number }>({
  name: 'velora',
  inputs: ['x', 'A', 'z', 'v'],
  shape: ({ x, A }) => [...x.slice(0, -1), A[0]!],
  kernel: { kind: 'composite', of: ({ x, A }) => x.matmul(A.T) },
  vjp: ({ A, z, v, dy, attrs: { scale } }) => ({
    x: () => dy.matmul(A),
    A: () => {
      const [rank, into] = A.shape as [number, number];
      const sums = dy.reshape(-1, rank).T.matmul(z).reshape(rank, -1, 1); // Σ ∂(A x̃)_r z_g, [r, G, 1]
      return sums.mul(v.mul(scale)).reshape(rank, -1).slice(1, 0, into);
    },
    z: null,
    v: null,
  }),
});
