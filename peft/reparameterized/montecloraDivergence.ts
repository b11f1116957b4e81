// MonteCLoRA's three divergences from its priors: of shares (Dirichlet), of variances (Wishart) and of samples (Gaussian).
// PEFT's Dirichlet divergence has its second sum of log Γ with the other sign.
import { exp, full, log } from '../../core/ops/map.ts';
import type { Tensor } from '../../core/tensor.ts';
import { digamma, logGamma } from './gamma.ts';
import type { MontecloraConfig } from './monteclora.ts';

/** KL(Dirichlet(α) ‖ Dirichlet(α₀)) of E parts; PEFT's has + before its second sum. */
export function dirichlet(alpha: Tensor, { samples, prior, divergence }: MontecloraConfig): Tensor {
  const before = full([samples], prior);
  const sums = logGamma(alpha.sum()).sub(logGamma(before.sum()));
  const each = logGamma(alpha).sub(logGamma(before)).sum();
  const moved = alpha
    .sub(before)
    .mul(digamma(alpha).sub(digamma(alpha.sum())))
    .sum();
  return (divergence === 'exact' ? sums.sub(each) : sums.add(each)).add(moved);
}
/** ½ r (Σ(v − log v) − r), v = e^{2ρ}. */
export const wishart = (rho: Tensor, r: number): Tensor =>
  exp(rho.mul(2))
    .sub(rho.mul(2))
    .sum()
    .sub(r)
    .mul(0.5 * r);
/** ½ E (Σ(σ² − log σ²) − r), of variances σ² [r]. */
export const gaussians = (variance: Tensor, { samples, rank }: MontecloraConfig): Tensor =>
  variance
    .sub(log(variance))
    .sum()
    .sub(rank)
    .mul(0.5 * samples);
