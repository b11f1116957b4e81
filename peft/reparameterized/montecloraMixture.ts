// MonteCLoRA's disturbance of A: Gaussian samples mixed by shares, the variances and shares sampled as well.
//   Σ_e π_e diag(√σ²) Z_e,   σ²_i = max(e^{2ρ_i} χ_i, 1e-3),   π = softmax(μ + √d ⊙ z), near to a Dirichlet sample of α = e^ω
import { softmax } from '../../core/ops/fused.ts';
import { exp, max, sqrt, square } from '../../core/ops/map.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Monteclora } from './monteclora.ts';

/** π [E], from ω and z ~ N(0, 1). */
function sharesOf(omega: Tensor, z: Tensor): Tensor {
  const parts = omega.shape[0]!;
  const inverse = exp(omega.neg()); // 1/α
  const spread = max(inverse.mul(1 - 2 / parts).add(inverse.sum().mul(1 / parts ** 2)), 1e-6).add(1e-6); // d
  return softmax(omega.sub(omega.mean()).add(sqrt(spread).mul(z)));
}
/** The noise [r, in], σ² [r] and π [E] from normal numbers: z [E, r, in], `chi` [r, r], of which a row's squares add up to χ_i, and `tilt` [E]. */
export function mixture(
  { rho, omega }: Pick<Monteclora, 'rho' | 'omega'>,
  z: Tensor,
  chi: Tensor,
  tilt: Tensor,
): Record<'noise' | 'variance' | 'shares', Tensor> {
  const variance = max(exp(rho.mul(2)).mul(square(chi).sum([1])), 1e-3);
  const shares = sharesOf(omega, tilt);
  const mixed = shares.reshape(1, -1).matmul(z.reshape(z.shape[0]!, -1));
  return { noise: mixed.reshape(...z.shape.slice(1)).mul(sqrt(variance).reshape(-1, 1)), variance, shares };
}
