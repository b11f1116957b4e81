// Hard-concrete gates: random in training, exactly 0 or 1 with some probability, and trained through it.
//   z = min(1, max(0, s̄)),   s̄ = s(r − l) + l,   s = σ(log u − log(1 − u) + α),   u ~ U(0, 1);   P(z ≠ 0) = σ(α − log(−l/r))
// Louizos, Welling & Kingma 2018, arXiv 1712.01312, with the numbers of Guo et al. 2021, arXiv 2012.07463: l = −1.5, r = 1.5, temperature 1.
import { clamp, log, sigmoid } from '../../core/ops/map.ts';
import type { Data, Tensor } from '../../core/tensor.ts';

const [LOW, HIGH] = [-1.5, 1.5];

/** log u − log(1 − u), u kept away from its ends; 0 without a draw. */
function logit(u: Tensor | null): Tensor | number {
  if (u === null) return 0;
  const safe = clamp(u, 1e-4, 1 - 1e-4);
  return log(safe).sub(log(safe.neg().add(1)));
}

/** z for α and u of one shape. */
export const gate = (alpha: Tensor, u: Tensor | null): Tensor =>
  clamp(
    sigmoid(alpha.add(logit(u)))
      .mul(HIGH - LOW)
      .add(LOW),
    0,
    1,
  );

/** Σ P(z ≠ 0) */
export const openGates = (alpha: Tensor): Tensor => sigmoid(alpha.sub(Math.log(-LOW / HIGH))).sum();

/** z of entry k of n without a draw, on the host. A group's α are fewer than n, each for as many entries in a row. */
export const medianGate = (alpha: Data, k: number, n: number): number =>
  Math.min(1, Math.max(0, (HIGH - LOW) / (1 + Math.exp(-alpha[Math.floor((k * alpha.length) / n)]!)) + LOW));
