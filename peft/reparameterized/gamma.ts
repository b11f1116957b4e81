// The logarithm of the gamma function and its derivative for positive numbers, from logarithms and quotients, so that they have gradients too.
//   log Γ(x) = log Γ(z) − Σ_{i<8} log(x + i),  z = x + 8,  log Γ(z) ≈ (z − ½) log z − z + ½ log 2π + 1/(12z) − 1/(360z³) + 1/(1260z⁵) − 1/(1680z⁷)
//   ψ(x) = ψ(z) − Σ_{i<8} 1/(x + i),           ψ(z) ≈ log z − 1/(2z) − 1/(12z²) + 1/(120z⁴) − 1/(252z⁶) + 1/(240z⁸)
// Stirling's series, Abramowitz & Stegun 6.1.41 and 6.3.18; for z ≥ 8 the terms left out are below 1e-11.
import { div, log } from '../../core/ops/map.ts';
import type { Tensor } from '../../core/tensor.ts';

const SHIFT = 8;
/** Σ cₖ/zᵏ for the powers that are there. */
const series = (z: Tensor, terms: readonly (readonly [power: number, c: number])[]): Tensor => {
  const inverse = div(1, z);
  const power = (k: number): Tensor => Array.from({ length: k }, () => inverse).reduce((a, b) => a.mul(b));
  return terms.map(([k, c]) => power(k).mul(c)).reduce((a, b) => a.add(b));
};
const shifts = (x: Tensor, f: (y: Tensor) => Tensor): Tensor =>
  Array.from({ length: SHIFT }, (_, i) => f(x.add(i))).reduce((a, b) => a.add(b));

/** log Γ(x), x > 0, elementwise. */
export function logGamma(x: Tensor): Tensor {
  const z = x.add(SHIFT);
  const stirling = z
    .sub(0.5)
    .mul(log(z))
    .sub(z)
    .add(0.5 * Math.log(2 * Math.PI));
  return stirling
    .add(
      series(z, [
        [1, 1 / 12],
        [3, -1 / 360],
        [5, 1 / 1260],
        [7, -1 / 1680],
      ]),
    )
    .sub(shifts(x, log));
}

/** ψ(x) = d/dx log Γ(x), x > 0, elementwise. */
export function digamma(x: Tensor): Tensor {
  const z = x.add(SHIFT);
  return log(z)
    .add(
      series(z, [
        [1, -1 / 2],
        [2, -1 / 12],
        [4, 1 / 120],
        [6, -1 / 252],
        [8, 1 / 240],
      ]),
    )
    .sub(shifts(x, (y) => div(1, y)));
}
