// The standard normal distribution, on the host: density, distribution function and its inverse.

/** φ(z) */
export const normalDensity = (z: number): number => Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI);
/** Φ(z) = ½ + φ(z)·Σ z^(2n+1)/(2n+1)!!, whose terms all have z's sign (Marsaglia 2004). */
export function normalCdf(z: number): number {
  if (Math.abs(z) > 8) return z < 0 ? 0 : 1;
  let [sum, term] = [z, z];
  for (let k = 3; sum + term !== sum; k += 2) {
    term *= (z * z) / k;
    sum += term;
  }
  return 0.5 + sum * normalDensity(z);
}
/** Φ⁻¹(p) for 0 < p < 1, by halving. */
export function normalQuantile(p: number): number {
  let [low, high] = [-8, 8];
  for (let k = 0; k < 60; k++) {
    const middle = (low + high) / 2;
    if (normalCdf(middle) < p) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}
