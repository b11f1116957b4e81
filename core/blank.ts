// Numbers that take no memory until somebody reads them: for counting networks that are too large to hold.
import type { Rng } from './rng.ts';
import type { Data } from './tensor.ts';

const BLANK = new WeakSet<ArrayBufferLike>();
const marked = <A extends Data>(a: A): A => {
  BLANK.add(a.buffer);
  return a;
};
/** Whether these are numbers of a `blank` network, or what was made of them: all 0, and not worth a computation. */
export const isBlank = (data: Data): boolean => BLANK.has(data.buffer);
/** n results of a computation with such numbers. */
export const blankResult = (n: number): Float64Array => marked(new Float64Array(n));

/**
 * An Rng whose every number is 0. All arrays are views of one, as long as the longest asked for, which the system gives pages
 * only when it is touched: `decoder(c, blank())` of three billion weights is there in milliseconds and takes some megabytes.
 * For shapes and counts (`account`, a method's `count`): factorisations of its weights (`peft/linalg.ts`) are blank in their turn, so that
 * methods that begin with one attach to it at once; computing with such a network would read all of it.
 */
export function blank(): Rng {
  let zeros = marked(new Float32Array(0));
  const take = (n: number): Float32Array => {
    if (n > zeros.length) zeros = marked(new Float32Array(n));
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
