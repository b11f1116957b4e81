// Weights of a few bits, trained through their rounding: what BI-Adapter makes of each of its matrices.
//   Ŵ = σ·c(w̄) + μ,   w̄ = (w − μ)/(σ + 1e-5), μ and σ over all entries of w;   c(w̄) the nearest of 2ᵇ levels;   ∂c/∂w̄ counts as 1
// Jie et al. 2023, arXiv 2307.16867, §4.2; levels as in the authors' code.
import { add, gt, sqrt, square, stopGradient } from '../../core/ops/map.ts';
import { concat } from '../../core/ops/move.ts';
import { type Shape, size } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';
import { type FewBits, packedBits, unpackedBits } from '../../quant/bits.ts';

/** Levels above 0, by bits; those below mirror them. Each is the median of its cell: Φ(v) is half-way between Φ at the cell's bounds. */
const above: Readonly<Record<FewBits, readonly number[]>> = {
  1: [0.674489750196],
  2: [0.377754161149, 1.26572032502],
  4: [0.105550281539, 0.319035996953, 0.54007205887, 0.775192048082, 1.03400627765, 1.33310667895, 1.70773756516, 2.26549061338],
};
export const levels = (bits: FewBits): readonly number[] => [...above[bits].map((v) => -v).reverse(), ...above[bits]];
/** The level of each code. */
const level = (code: Tensor, bits: FewBits): Tensor => {
  const values = levels(bits);
  return values
    .slice(1)
    .map((v, k) => gt(code, k + 0.5).mul(v - values[k]!))
    .reduce(add)
    .add(values[0]!);
};

function standardised(w: Tensor, bits: FewBits): { bar: Tensor; code: Tensor; deviation: Tensor; mean: Tensor } {
  const mean = w.mean();
  const deviation = sqrt(
    square(w.sub(mean))
      .sum()
      .mul(1 / (size(w.shape) - 1)),
  );
  const bar = w.sub(mean).div(deviation.add(1e-5));
  const values = levels(bits);
  const bounds = values.slice(1).map((v, k) => (v + values[k]!) / 2);
  return { bar, code: bounds.map((b) => gt(bar, b)).reduce(add), deviation, mean };
}
/** Ŵ in the given shape: of trained numbers, or of bits in bytes where there are (σ, μ). */
export function rounded(w: Tensor, bits: FewBits, stats: Tensor | undefined, shape: Shape): Tensor {
  if (stats !== undefined)
    return level(unpackedBits(w, bits, size(shape)), bits)
      .mul(stats.slice(0, 0, 1))
      .add(stats.slice(0, 1, 2))
      .reshape(...shape);
  const { bar, code, deviation, mean } = standardised(w, bits);
  return bar
    .add(stopGradient(level(code, bits).sub(bar)))
    .mul(deviation)
    .add(mean);
}
/** What has to be stored of w: its codes in bytes, and [σ, μ]. */
export function shrunk(w: Tensor, bits: FewBits): readonly [bytes: Tensor, stats: Tensor] {
  const { code, deviation, mean } = standardised(w, bits);
  return [packedBits(code, bits), concat([deviation.reshape(1), mean.reshape(1)], 0)];
}
