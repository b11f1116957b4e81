// S4's design spaces: ways to group the layers and to share a budget out, and the subsets that are tuned or mixed.
// Chen et al. 2023, arXiv 2301.01821, §3 and §4.
import type { Strategy } from './s4.ts';

/** Four groups that grow and shrink again: about L/6, L/3, L/3, L/6 blocks. The paper says spindle, and not how many. L ≥ 4. */
export function spindle(layers: number): number[] {
  if (!Number.isInteger(layers) || layers < 4)
    throw new RangeError(`spindle: ${layers} layers do not make four groups; it takes 4 or more`);
  const end = Math.max(1, Math.floor(layers / 6));
  const middle = layers - 2 * end;
  return [end, Math.ceil(middle / 2), Math.floor(middle / 2), end];
}

/**
 * The paper's assignment, as the survey of Han et al. (2403.14608) prints it. The released code has no groups in it: what it calls PEFT is
 * UniPELT with the same sizes in all layers, so that how many layers a group has is not settled by it.
 */
export const PAPER: readonly (readonly Strategy[])[] = [
  ['adapter', 'lora'],
  ['adapter', 'prefix'],
  ['adapter', 'prefix', 'bitfit'],
  ['prefix', 'bitfit', 'lora'],
];

/** Ways to divide L layers into four groups. */
export function groupings(layers: number): ReadonlyMap<string, readonly number[]> {
  const parts = (weights: readonly number[]): number[] => {
    const sum = weights.reduce((a, b) => a + b, 0);
    const whole = weights.map((w) => Math.max(1, Math.floor((layers * w) / sum)));
    while (whole.reduce((a, b) => a + b, 0) > layers) whole[whole.indexOf(Math.max(...whole))]!--;
    for (let k = weights.indexOf(Math.max(...weights)); whole.reduce((a, b) => a + b, 0) < layers; k = (k + 1) % 4) whole[k]!++;
    return whole;
  };
  return new Map([
    ['increasing', parts([1, 2, 3, 4])],
    ['uniform', parts([1, 1, 1, 1])],
    ['decreasing', parts([4, 3, 2, 1])],
    ['spindle', spindle(layers)],
    ['bottleneck', parts([2, 1, 1, 2])],
  ]);
}

export const allocations: ReadonlyMap<string, readonly number[]> = new Map([
  ['increasing', [1, 2, 3, 4]],
  ['uniform', [1, 1, 1, 1]],
  ['decreasing', [4, 3, 2, 1]],
]);

export const subsets = <T>(all: readonly T[]): T[][] =>
  Array.from({ length: 2 ** all.length - 1 }, (_, bits) => all.filter((_, k) => ((bits + 1) >> k) & 1));
