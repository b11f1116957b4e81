// Gradient clipping: by the norm of all gradients together, or value by value.

import { add, clamp, div, min, sqrt, square } from '../core/ops/map.ts';
import { sum } from '../core/ops/reduce.ts';
import type { Tensor } from '../core/tensor.ts';
import type { Grads } from '../nn/hooks.ts';

/** Recipes for clipped gradients; `norm` is their global norm before clipping, where it was needed. */
export type Clip = (grads: Grads) => { readonly grads: Grads; readonly norm: Tensor | null };

/** √Σ g² over all gradients. */
export const globalNorm = (grads: Grads): Tensor => sqrt([...grads.values()].map((g) => sum(square(g))).reduce(add)); // []

/** All gradients scaled by min(1, max/(‖g‖ + 1e-6))  (Pascanu et al. 2013, arXiv 1211.5063, §3.2; the 1e-6 is PyTorch's). */
export function clipByNorm(max: number): Clip {
  positive('clipByNorm', max);
  return (grads) => {
    if (grads.size === 0) return { grads, norm: null };
    const norm = globalNorm(grads);
    const scale = min(div(max, norm.add(1e-6)), 1);
    return { grads: new Map([...grads].map(([p, g]) => [p, g.mul(scale)])), norm };
  };
}

/** Every number of every gradient limited to [−max, max]. */
export function clipByValue(max: number): Clip {
  positive('clipByValue', max);
  return (grads) => ({ grads: new Map([...grads].map(([p, g]) => [p, clamp(g, -max, max)])), norm: null });
}

function positive(what: string, max: number): void {
  if (!(max > 0 && Number.isFinite(max))) throw new RangeError(`${what}: the limit must be a number above 0, got ${max}`);
}
