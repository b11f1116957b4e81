// Half precision: weights that stay two bytes a number (float16 or bfloat16), exactly as a checkpoint has them.
//   f16: 1 sign, 5 exponent, 10 mantissa bits (IEEE 754 binary16) · bf16: the upper half of a float32 (1, 8, 7)
// A number is base[e] + mantissa·step[e], e its sign and exponent bits: both exact in float32, subnormal numbers included.
import { unpackHalf } from '../core/ops/unpack.ts';
import { type Shape, ShapeError, show, size } from '../core/shape.ts';
import { type Data, leaf } from '../core/tensor.ts';
import { type Layer, layer } from '../nn/layer.ts';
import type { Scheme } from './quantize.ts';

export type Half = 'f16' | 'bf16';
const bitsOf = { f16: { exponent: 5, mantissa: 10 }, bf16: { exponent: 8, mantissa: 7 } } as const;

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
const tables: Readonly<Record<Half, Float32Array>> = { f16: tablesOf(bitsOf.f16), bf16: tablesOf(bitsOf.bf16) };

const scratch = new DataView(new ArrayBuffer(4));
/** The 16 bits nearest to a number, ties to even. Beyond the largest finite number they say infinite. */
export function toHalf(x: number, format: Half): number {
  const { exponent, mantissa } = bitsOf[format];
  if (format === 'bf16') {
    scratch.setFloat32(0, x);
    const b = scratch.getUint32(0);
    return Number.isNaN(x) ? 0x7fc0 : ((b + 0x7fff + ((b >>> 16) & 1)) >>> 16) & 0xffff; // float64 is rounded to float32 first
  }
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0;
  const v = Math.abs(x);
  const infinite = (2 ** exponent - 1) << mantissa;
  if (Number.isNaN(v)) return infinite | 0x200;
  const bias = 2 ** (exponent - 1) - 1;
  const near = v === 0 ? 1 - bias : Math.floor(Math.log2(v)); // the logarithm may be off by a rounding
  const e = Math.max(v < 2 ** near ? near - 1 : v >= 2 ** (near + 1) ? near + 1 : near, 1 - bias);
  const units = v / 2 ** (e - mantissa); // below 2^mantissa: subnormal
  const low = Math.floor(units);
  const rest = units - low;
  const whole = rest > 0.5 || (rest === 0.5 && low % 2 === 1) ? low + 1 : low;
  const bits = v === Number.POSITIVE_INFINITY ? infinite : whole + (e + bias - 1) * 2 ** mantissa;
  return sign | Math.min(bits, infinite);
}
/** The number that 16 bits stand for; infinities and NaN are NaN. */
export function fromHalf(bits: number, format: Half): number {
  const { exponent, mantissa } = bitsOf[format];
  const e = bits >> mantissa; // sign and exponent
  if ((e & (2 ** exponent - 1)) === 2 ** exponent - 1) return Number.NaN;
  const t = tables[format];
  return t[e]! + (bits & (2 ** mantissa - 1)) * t[t.length / 2 + e]!;
}

/** Bytes as they lie in a checkpoint (little-endian), looked through for infinities and NaN. */
export function halfWeight(bytes: Uint8Array, shape: Shape, format: Half): Layer<'weight'> {
  const [rows, cols] = shape;
  if (rows === undefined || cols === undefined || shape.length !== 2 || bytes.length !== 2 * size(shape))
    throw new ShapeError(`${format}: keeps matrices in two bytes a number, got ${bytes.length} bytes for shape ${show(shape)}`);
  const { exponent, mantissa } = bitsOf[format];
  const all = (2 ** exponent - 1) << mantissa;
  for (let i = 0; i < bytes.length; i += 2)
    if (((bytes[i]! | (bytes[i + 1]! << 8)) & all) === all)
      throw new RangeError(`${format}: number ${i / 2} of ${show(shape)} is infinite or not a number; only finite weights can be used`);
  return layer(
    'weight',
    { codes: leaf(bytes, [rows, 2 * cols]), values: leaf(tables[format], [2, tables[format].length / 2]) },
    (f) => () => unpackHalf(format, { codes: f.codes, values: f.values }, [rows, cols]),
  );
}

/** Numbers rounded to 16 bits each, little-endian. */
export function toHalves(data: Data, format: Half): Uint8Array {
  const bytes = new Uint8Array(2 * data.length);
  for (let i = 0; i < data.length; i++) {
    const h = toHalf(data[i]!, format);
    bytes[2 * i] = h & 255;
    bytes[2 * i + 1] = h >> 8;
  }
  return bytes;
}
const half = (format: Half): Scheme => ({
  name: format,
  pack: (data: Data, shape: Shape) => halfWeight(toHalves(data, format), shape, format),
  round: (data: Data) => Float32Array.from(data, (v) => fromHalf(toHalf(v, format), format)),
});
/** float16 as a scheme for `quantize`: two bytes per weight. Throws where a weight is beyond ±65504. */
export const f16 = (): Scheme => half('f16');
/** bfloat16: two bytes per weight, eight bits of precision, float32's range. */
export const bf16 = (): Scheme => half('bf16');
