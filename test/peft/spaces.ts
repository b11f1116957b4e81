// A small search space whose best is known.
import type { EncodedSpace } from '../../peft/bayesianSearch.ts';

/** Three sizes and four layers, like AutoPEFT's. */
export const sevenDigits: EncodedSpace<readonly number[]> = {
  draw: (r) => Array.from({ length: 7 }, (_, i) => r.below(i < 3 ? 6 : 2)),
  mutate: (c, r) => {
    const i = r.below(7);
    return c.with(i, i < 3 ? r.below(6) : 1 - c[i]!);
  },
  size: (c) => 1 + c.slice(0, 3).reduce((s, v) => s + 2 ** v, 0) * c.slice(3).reduce((s, v) => s + v, 0),
  key: (c) => c.join(''),
  encode: (c) => c.map((v, i) => v / (i < 3 ? 5 : 1)),
};
/** One of the sizes helps, and two of the layers; everything costs. */
export const sevenLoss = async (c: readonly number[]): Promise<number> => 3 - 0.3 * c[1]! - 0.5 * c[4]! - 0.7 * c[6]!;
