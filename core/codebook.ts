// Numbers as codes of a table of values with one scale per block: what packed weights and the states of 8-bit optimizers share. Host only.

/** Numbers in [−1, 1] that codes stand for. */
export interface Codebook {
  readonly values: Float32Array; // by code
  /** Code of the nearest value; a number exactly between two takes the lower value. */
  readonly nearest: (x: number) => number;
}

/** A codebook of values in any order. Of codes with equal values (0 and −0) the first is used. */
export function codebook(numbers: readonly number[]): Codebook {
  const values = Float32Array.from(numbers);
  const order = numbers
    .map((_, code) => code)
    .sort((a, b) => values[a]! - values[b]! || a - b)
    .filter((code, k, all) => k === 0 || values[code] !== values[all[k - 1]!]);
  const bounds = Float32Array.from(order.slice(1), (code, k) => (values[order[k]!]! + values[code]!) / 2);
  const nearest = (x: number): number => {
    let [low, high] = [0, bounds.length]; // how many bounds lie below x
    while (low < high) {
      const mid = (low + high) >> 1;
      if (bounds[mid]! < x) low = mid + 1;
      else high = mid;
    }
    return order[low]!;
  };
  return { values, nearest };
}

export interface Blocks {
  readonly codes: Uint8Array; // one per number
  readonly scales: Float32Array; // one per block: its largest magnitude
}

/**
 * c = max |x| over a block, code = nearest(x / c). Blocks are `block` consecutive numbers; the last may be shorter. A block of zeros
 * has scale 0. Throws on NaN and on what is infinite in float32; `what` names the caller.
 */
export function quantizeBlocks(x: ArrayLike<number>, block: number, { nearest }: Codebook, what: string): Blocks {
  if (!Number.isInteger(block) || block < 1) throw new RangeError(`${what}: block must be a whole number from 1, got ${block}`);
  const codes = new Uint8Array(x.length).fill(nearest(0));
  const scales = new Float32Array(Math.ceil(x.length / block));
  for (let k = 0; k < scales.length; k++) {
    const end = Math.min((k + 1) * block, x.length);
    let c = 0;
    for (let i = k * block; i < end; i++) {
      const v = Math.abs(Math.fround(x[i]!));
      if (!Number.isFinite(v)) throw new RangeError(`${what}: number ${i} is ${x[i]}; only numbers finite in float32 can be quantised`);
      c = Math.max(c, v);
    }
    scales[k] = c;
    if (c > 0) for (let i = k * block; i < end; i++) codes[i] = nearest(Math.fround(Math.fround(x[i]!) / c));
  }
  return { codes, scales };
}

/** 2^(e + extra) midpoints of [0.1, 1] cut in as many parts, times 10^(e−6), for e = 0 … 6. */
const magnitudes = (extra: number): number[] =>
  [0, 1, 2, 3, 4, 5, 6].flatMap((e) => {
    const n = 2 ** (e + extra);
    return Array.from({ length: n }, (_, k) => (0.1 + (0.9 * (k + 0.5)) / n) * 10 ** (e - 6));
  });
/**
 * The dynamic map (Dettmers et al. 2022, arXiv 2110.02861, §1.3): 256 ascending values, dense near 0. Signed, from −0.99297 to 1 with 0 at code
 * 127; unsigned, from 0 (code 0) to 1, with twice as many values.
 */
export const dynamicValues = (signed: boolean): number[] => {
  const positive = magnitudes(signed ? 0 : 1);
  return [...(signed ? positive.map((v) => -v) : []), 0, ...positive, 1].sort((a, b) => a - b);
};
