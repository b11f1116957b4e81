// Four bits per weight: NF4 and FP4 codes, two in a byte, and one scale per block.
//   c = max |w| over 64 consecutive weights,  q = nearest code of w / c,  ŵ = c·code[q],  so |w − ŵ| ≤ c · half the gap between codes
// NF4's codes are quantiles of a normal distribution (and 0, ±1), FP4's are the floats of one sign, two exponent and one mantissa bit.
// Dettmers et al. 2023 (QLoRA), arXiv 2305.14314, §3; tables, byte order and ties as in bitsandbytes.

import { type Codebook, codebook, quantizeBlocks } from '../core/codebook.ts';
import { blocksShape, codesShape, unpackTable } from '../core/ops/unpack.ts';
import { type Shape, ShapeError, show, size } from '../core/shape.ts';
import { type Data, leaf, type Tensor } from '../core/tensor.ts';
import { layer } from '../nn/layer.ts';
import type { Scheme } from './quantize.ts';

/** NormalFloat: quantiles of N(0, 1) scaled to [−1, 1]: 7 negatives, 0 (code 7) and 8 positives. */
export const nf4Code: Codebook = codebook([
  -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0,
  0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
  0.7229568362236023, 1,
]);
const fp4Positive = [0, 0.0625, 8, 12, 4, 6, 2, 3].map((v) => v / 12); // by bit pattern
/** Four-bit floats over their largest, 12; codes from 8 are the negatives, and 8 itself (−0) is never written. */
export const fp4Code: Codebook = codebook([...fp4Positive, ...fp4Positive.map((v) => -v)]);

export interface FourBit {
  readonly codes: Uint8Array; // two weights a byte, the first in the high half; an odd count is padded with the code of 0
  readonly scales: Float32Array; // one per block
}

/** Codes in bytes, the first one in the highest bits; the rest of the last byte is filled with `padding`. */
function inBytes(codes: Uint8Array, bits: 2 | 4 | 8, padding: number): Uint8Array {
  const per = 8 / bits;
  return Uint8Array.from({ length: Math.ceil(codes.length / per) }, (_, k) => {
    let byte = 0;
    for (let j = 0; j < per; j++) byte = (byte << bits) | (codes[k * per + j] ?? padding);
    return byte;
  });
}
/** Two codes per byte, the first one high. */
export const packCodes = (codes: Uint8Array, padding: number): Uint8Array => inBytes(codes, 4, padding);
/** The first `n` codes of packed bytes. */
export const unpackCodes = (bytes: Uint8Array, n: number): Uint8Array =>
  Uint8Array.from({ length: n }, (_, i) => (i % 2 === 0 ? bytes[i >> 1]! >> 4 : bytes[i >> 1]! & 15));

/** Packed codes and scales of numbers in row-major order; `block` (64) consecutive ones share a scale. Throws on NaN and infinities. */
export function quantize4(w: ArrayLike<number>, book: Codebook, block = 64): FourBit {
  const { codes, scales } = quantizeBlocks(w, block, book, 'quantize4');
  return { codes: packCodes(codes, book.nearest(0)), scales };
}
/** The `n` numbers that packed codes stand for, on the host. */
export const dequantize4 = ({ codes, scales }: FourBit, n: number, { values }: Codebook, block = 64): Float32Array =>
  Float32Array.from(unpackCodes(codes, n), (q, i) => values[q]! * scales[Math.floor(i / block)]!);

type Matrix = readonly [rows: number, cols: number];
/** A way to keep the scales of blocks: how they become frozen tensors, and a recipe that gives them back in the same shape. */
export interface ScaleStore<S extends { readonly [name: string]: Tensor }> {
  readonly name: string;
  readonly pack: (scales: Float32Array, shape: Shape) => S;
  readonly unpack: (s: S) => Tensor;
  /** The scales that are left of these, on the host. */
  readonly round: (scales: Float32Array) => Float32Array;
}
/** Scales as they are: 32/block bits per weight. */
export const float32Scales: ScaleStore<{ absmax: Tensor }> = {
  name: 'float32',
  pack: (scales, shape) => ({ absmax: leaf(scales, shape) }),
  unpack: (s) => s.absmax,
  round: (scales) => scales,
};

/** Codes of `bits` bits into a table of values, a scale for each block. */
export const tableScheme = <S extends { readonly [name: string]: Tensor }>(
  name: string,
  book: Codebook,
  bits: 2 | 4 | 8,
  block: number,
  store: ScaleStore<S>,
): Scheme => ({
  name: `${name}, scales ${store.name}`,
  round: (data: Data) => {
    const { codes, scales } = quantizeBlocks(data, block, book, name);
    const kept = store.round(scales);
    return Float32Array.from(codes, (q, i) => book.values[q]! * kept[Math.floor(i / block)]!);
  },
  pack: (data: Data, shape: Shape) => {
    const [rows, cols] = shape;
    if (rows === undefined || cols === undefined || shape.length !== 2 || data.length !== size(shape))
      throw new ShapeError(`${name}: packs matrices, got ${data.length} numbers of shape ${show(shape)}`);
    const matrix: Matrix = [rows, cols];
    const { codes, scales } = quantizeBlocks(data, block, book, name);
    return layer(
      'weight',
      {
        codes: leaf(inBytes(codes, bits, book.nearest(0)), codesShape(matrix, bits)),
        scales: store.pack(scales, blocksShape(matrix, block)),
        values: leaf(book.values, [1, 2 ** bits]), // one array for all weights
      },
      (f) => () => unpackTable({ codes: f.codes, scales: store.unpack(f.scales), values: f.values }, { shape: matrix, bits, block }),
    );
  },
});

interface FourBitOptions<S extends { readonly [name: string]: Tensor }> {
  /** Consecutive weights that share a scale: 64. */
  readonly block?: number;
  /** How scales are kept: `doubleQuant()`, or float32 when left out. */
  readonly scales?: ScaleStore<S>;
}
/** NF4 as a scheme for `quantize`: 4 + 32/block bits per weight, or about 4.127 with `scales: doubleQuant()`. */
export const nf4 = <S extends { readonly [name: string]: Tensor }>({ block = 64, scales }: FourBitOptions<S> = {}): Scheme =>
  scales === undefined ? tableScheme('nf4', nf4Code, 4, block, float32Scales) : tableScheme('nf4', nf4Code, 4, block, scales);
/** FP4 as a scheme for `quantize`; as large as NF4, and farther from normally distributed weights. */
export const fp4 = <S extends { readonly [name: string]: Tensor }>({ block = 64, scales }: FourBitOptions<S> = {}): Scheme =>
  scales === undefined ? tableScheme('fp4', fp4Code, 4, block, float32Scales) : tableScheme('fp4', fp4Code, 4, block, scales);
