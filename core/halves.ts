// Numbers of 16 bits, and what each of them stands for: float16 or bfloat16, exactly as a checkpoint has them.
//   f16: 1 sign, 5 exponent, 10 mantissa bits (IEEE 754 binary16) · bf16: the upper half of a float32 (1, 8, 7)
// A number is base[e] + mantissa·step[e], e its sign and exponent bits: both exact in float32, subnormal numbers included.
import { packedParts } from './ops/unpack.ts';
import { size } from './shape.ts';
import type { Data, Tensor } from './tensor.ts';

export type Half = 'f16' | 'bf16';
export const bitsOf = { f16: { exponent: 5, mantissa: 10 }, bf16: { exponent: 8, mantissa: 7 } } as const;

/** [2, 2^(1 + exponent bits)]: bases, then steps, by sign and exponent. What would be infinite is 0: no number has that exponent. */
function tablesOf({ exponent, mantissa }: { exponent: number; mantissa: number }): Float32Array {
  const [n, bias] = [2 ** exponent, 2 ** (exponent - 1) - 1];
  const values = new Float32Array(4 * n);
  for (let sign = 0; sign < 2; sign++)
    for (let e = 0; e < n - 1; e++) {
      const step = (1 - 2 * sign) * 2 ** (Math.max(e, 1) - bias - mantissa);
      values[sign * n + e] = (e === 0 ? 0 : 2 ** mantissa) * step;
      values[2 * n + sign * n + e] = step;
    }
  return values;
}
export const tables: Readonly<Record<Half, Float32Array>> = { f16: tablesOf(bitsOf.f16), bf16: tablesOf(bitsOf.bf16) };

/** The number that 16 bits stand for; infinities and NaN are NaN. */
export function fromHalf(bits: number, format: Half): number {
  const { exponent, mantissa } = bitsOf[format];
  const e = bits >> mantissa; // sign and exponent
  if ((e & (2 ** exponent - 1)) === 2 ** exponent - 1) return Number.NaN;
  const t = tables[format];
  return t[e]! + (bits & (2 ** mantissa - 1)) * t[t.length / 2 + e]!;
}

/** Where a frozen matrix of halves has its bytes; null for any other tensor. */
function halvesOf(t: Tensor): { readonly bytes: Data; readonly from: number; readonly format: Half } | null {
  const { packing, parts } = packedParts(t) ?? {};
  const codes = parts?.codes?.source;
  if ((packing?.form !== 'f16' && packing?.form !== 'bf16') || codes?.kind !== 'leaf') return null;
  return { bytes: codes.data, from: 2 * packing.from * packing.shape[1], format: packing.form };
}
export const isHalves = (t: Tensor): boolean => halvesOf(t) !== null;

/** The numbers of a frozen matrix of halves, on the host and exactly; null for any other tensor. */
export function halvesAtHand(t: Tensor): Float32Array | null {
  const halves = halvesOf(t);
  if (halves === null) return null;
  const { bytes, from, format } = halves;
  const numbers = new Float32Array(size(t.shape));
  for (let k = 0, i = from; k < numbers.length; k++, i += 2) numbers[k] = fromHalf(bytes[i]! | (bytes[i + 1]! << 8), format);
  return numbers;
}
