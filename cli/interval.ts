// Mean and confidence interval of a few repeated measurements.

/** 97.5 % quantiles of Student's t with 1, 2, … degrees of freedom; beyond the table the normal one is near enough below. */
const T = [
  12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11, 2.101, 2.093,
];

/** The mean, and half the width of its 95 % confidence interval, t·s/√n; null for a single value, which shows no spread. */
export function meanAndInterval(values: readonly number[]): { readonly mean: number; readonly half: number | null } {
  const n = values.length;
  const mean = values.reduce((a, b) => a + b, 0) / n;
  if (n < 2) return { mean, half: null };
  const variance = values.reduce((a, v) => a + (v - mean) ** 2, 0) / (n - 1);
  const t = T[n - 2] ?? 1.96 + 2.4 / (n - 1); // the expansion in 1/ν: 2.086 at 20 (exactly 2.086)
  return { mean, half: t * Math.sqrt(variance / n) };
}

/** The mean, and the standard deviation of a sample (n − 1); null for a single value. */
export function meanAndDeviation(values: readonly number[]): { readonly mean: number; readonly deviation: number | null } {
  const n = values.length;
  const mean = values.reduce((a, b) => a + b, 0) / n;
  return { mean, deviation: n < 2 ? null : Math.sqrt(values.reduce((a, v) => a + (v - mean) ** 2, 0) / (n - 1)) };
}
