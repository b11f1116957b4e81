// Half precision: weights that stay two bytes a number (float16 or bfloat16), exactly as a checkpoint has them.
// What the bits stand for: core/halves.ts.
import { bitsOf, fromHalf, type Half, halvesAtHand, tables } from '../core/halves.ts';
import { unpackHalf } from '../core/ops/unpack.ts';
import { within } from '../core/scope.ts';
import { type Shape, ShapeError, show, size } from '../core/shape.ts';
import { type Data, leaf } from '../core/tensor.ts';
import { type Field, type Layer, layer } from '../nn/layer.ts';
import { isPacked, weight } from '../nn/linear.ts';
import { substitute } from '../nn/tree.ts';
import type { Scheme } from './quantize.ts';

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

/** The same tree with every matrix of halves as float32: twice the bytes, the same numbers. Tied weights stay tied. */
export const widened = <T extends Field>(tree: T): T =>
  substitute(tree, 'weight', (l, path) => {
    if (!isPacked(l)) return null;
    const w = within({ path }, l);
    const numbers = halvesAtHand(w);
    return numbers === null ? null : weight(leaf(numbers, w.shape));
  });

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
