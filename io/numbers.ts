// Element types of files as typed arrays and back. Files are little-endian, and so are all machines JavaScript runs on today.
import type { Data } from '../core/tensor.ts';

/** Bytes per element, in the order in which the reference writer sorts types (it writes the last ones first). */
export const WIDTH = { BOOL: 1, U8: 1, I8: 1, I16: 2, F16: 2, BF16: 2, I32: 4, F32: 4, F64: 8, I64: 8 } as const;
export type Dtype = keyof typeof WIDTH;
export const DTYPES = Object.keys(WIDTH) as readonly Dtype[];
export const isDtype = (s: unknown): s is Dtype => typeof s === 'string' && Object.hasOwn(WIDTH, s);

/** The type that holds an array's numbers exactly. */
export const dtypeOf = (d: Data): Dtype =>
  d instanceof Float32Array
    ? 'F32'
    : d instanceof Float64Array
      ? 'F64'
      : d instanceof Int32Array
        ? 'I32'
        : d instanceof Int8Array
          ? 'I8'
          : 'U8';

/** A number of a file that a JavaScript number cannot hold: its place and what to say. */
export class NumberError extends RangeError {
  readonly index: number;
  constructor(index: number, message: string) {
    super(message);
    this.index = index;
  }
}

/** Numbers from bytes. Halves widen to float32, I16 to int32 and I64 to float64, all exactly; BOOL is 0 and 1; an I64 beyond ±2⁵³ throws a NumberError. */
export function decodeNumbers(bytes: Uint8Array, dtype: Dtype): Data {
  const b = bytes.byteOffset % 8 === 0 ? bytes : bytes.slice();
  const n = bytes.length / WIDTH[dtype];
  switch (dtype) {
    case 'F32':
      return new Float32Array(b.buffer, b.byteOffset, n);
    case 'F64':
      return new Float64Array(b.buffer, b.byteOffset, n);
    case 'I32':
      return new Int32Array(b.buffer, b.byteOffset, n);
    case 'I8':
      return new Int8Array(b.buffer, b.byteOffset, n);
    case 'U8':
    case 'BOOL':
      return new Uint8Array(b.buffer, b.byteOffset, n);
    case 'I16':
      return Int32Array.from(new Int16Array(b.buffer, b.byteOffset, n));
    case 'F16':
      return halvesToFloats(new Uint16Array(b.buffer, b.byteOffset, n));
    case 'BF16':
      return new Float32Array(Uint32Array.from(new Uint16Array(b.buffer, b.byteOffset, n), (h) => h << 16).buffer);
    case 'I64':
      return Float64Array.from(new BigInt64Array(b.buffer, b.byteOffset, n) as unknown as ArrayLike<number>, (v, k) => toNumber(v, k)); // from() widens bigint elements through the mapping
    default:
      return dtype satisfies never;
  }
}
const toNumber = (v: unknown, k: number): number => {
  const big = v as bigint;
  if (big > Number.MAX_SAFE_INTEGER || big < Number.MIN_SAFE_INTEGER)
    throw new NumberError(k, `element ${k} is ${big}, beyond ±2^53, which a JavaScript number cannot hold`);
  return Number(big);
};

/** Bytes of numbers. Integer types refuse what they cannot hold; halves round to nearest, ties to even. */
export function encodeNumbers(data: Data, dtype: Dtype, name: string): Uint8Array {
  if (dtype === dtypeOf(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const bytes = (a: ArrayBufferView): Uint8Array => new Uint8Array(a.buffer, a.byteOffset, a.byteLength);
  const whole = (low: number, high: number): Data => {
    const bad = data.findIndex((v) => !(Number.isInteger(v) && v >= low && v <= high));
    if (bad >= 0) throw new RangeError(`safetensors: ${name}[${bad}] is ${data[bad]}, which ${dtype} cannot hold`);
    return data;
  };
  switch (dtype) {
    case 'F32':
      return bytes(Float32Array.from(data));
    case 'F64':
      return bytes(Float64Array.from(data));
    case 'F16':
      return bytes(Uint16Array.from(data, floatToHalf));
    case 'BF16':
      return bytes(Uint16Array.from(data, floatToBfloat));
    case 'I32':
      return bytes(Int32Array.from(whole(-(2 ** 31), 2 ** 31 - 1)));
    case 'I8':
      return bytes(Int8Array.from(whole(-128, 127)));
    case 'U8':
      return bytes(Uint8Array.from(whole(0, 255)));
    case 'I16':
      return bytes(Int16Array.from(whole(-32768, 32767)));
    case 'BOOL':
      return bytes(Uint8Array.from(whole(0, 1)));
    case 'I64':
      return bytes(BigInt64Array.from([...whole(Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER)], BigInt));
    default:
      return dtype satisfies never;
  }
}

/** There are only 65,536 halves: for long arrays each is widened once and looked up after that. */
function halvesToFloats(h: Uint16Array): Float32Array {
  const table = h.length > 65536 ? Float32Array.from({ length: 65536 }, (_, v) => halfToFloat(v)) : null;
  const out = new Float32Array(h.length);
  if (table === null) for (let i = 0; i < h.length; i++) out[i] = halfToFloat(h[i]!);
  else for (let i = 0; i < h.length; i++) out[i] = table[h[i]!]!;
  return out;
}
/** IEEE half → float: sign, 5 bits of exponent, 10 of fraction. */
export function halfToFloat(h: number): number {
  const sign = h & 0x8000 ? -1 : 1;
  const exponent = (h >> 10) & 31;
  const fraction = h & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Float → nearest half, ties to even; too large becomes ±Infinity. */
export function floatToHalf(v: number): number {
  const sign = v < 0 || Object.is(v, -0) ? 0x8000 : 0;
  if (Number.isNaN(v)) return 0x7e00;
  const a = Math.abs(v);
  if (a >= 65520) return sign | 0x7c00; // halfway between 65504 and 2¹⁶ rounds up
  if (a < 2 ** -14) return sign | even(a * 2 ** 24); // subnormal; 1024 is the smallest normal number
  const e = Math.min(Math.floor(Math.log2(a)), 15);
  const exponent = a < 2 ** e ? e - 1 : a >= 2 ** (e + 1) ? e + 1 : e; // log2 may round across a power of two
  return sign | (((exponent + 15) << 10) + even((a / 2 ** exponent - 1) * 1024)); // a carry moves into the exponent, as it should
}
/** Nearest whole number, ties to even; exact for the magnitudes here. */
const even = (x: number): number => {
  const low = Math.floor(x);
  const rest = x - low;
  return rest > 0.5 || (rest === 0.5 && low % 2 === 1) ? low + 1 : low;
};

/** Float → nearest bfloat16, ties to even: the upper half of a float32. */
export function floatToBfloat(v: number): number {
  if (Number.isNaN(v)) return 0x7fc0;
  const bits = new Uint32Array(Float32Array.of(v).buffer)[0]!;
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}
