// Numbers that take no memory until somebody reads them: for counting networks that are too large to hold.
import type { Rng } from './rng.ts';

/**
 * An Rng whose every number is 0. All arrays are views of one, as long as the longest asked for, which the system gives pages
 * only when it is touched: `decoder(c, blank())` of three billion weights is there in milliseconds and takes some megabytes.
 * For shapes and counts (`account`, a method's `count`); computing with such a network would read all of it.
 */
export function blank(): Rng {
  let zeros = new Float32Array(0);
  const take = (n: number): Float32Array => {
    if (n > zeros.length) zeros = new Float32Array(n);
    return zeros.subarray(0, n);
  };
  const all: Rng = {
    split: () => all,
    next: () => 0,
    below: () => 0,
    uniform: take,
    normal: take,
    bernoulli: take,
    permutation: (n) => Array.from({ length: n }, (_, i) => i),
  };
  return all;
}
