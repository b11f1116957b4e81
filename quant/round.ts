// Rounding to whole numbers, ties to even: on the host, and as a recipe.
import { eq, floor, gt } from '../core/ops/map.ts';
import type { Tensor } from '../core/tensor.ts';

/** Nearest whole number, ties to even: symmetric in sign, unlike Math.round. */
export const half = (x: number): number => {
  const low = Math.floor(x);
  const rest = x - low;
  return rest > 0.5 || (rest === 0.5 && low % 2 !== 0) ? low + 1 : low;
};

/** The same for every element; its derivative is 0. From ⌊x + ½⌋, one is taken off where it lies more than ½ above x, or just ½ and is odd. */
export function rounded(x: Tensor): Tensor {
  const up = floor(x.add(0.5));
  const above = up.sub(x);
  const odd = up.sub(floor(up.mul(0.5)).mul(2));
  return up.sub(gt(above, 0.5)).sub(eq(above, 0.5).mul(odd));
}
