// Four and two bits per weight, asymmetric by group: a scale and a zero point for every group of a row.
//   s = (high − low) / (2ᵇ − 1),  z = round(−low / s),  q = clamp(round(w / s) + z, 0, 2ᵇ − 1),  ŵ = s·(q − z),  so |w − ŵ| ≤ s/2
//   low = min(0, w), high = max(0, w) over `group` consecutive columns of a row: 0 is always a code, and exact.
// Round-to-nearest as GPTQ's code has it (Frantar et al. 2022, arXiv 2210.17323, the quantiser its §4 compares with).
import { packedParts, unpackAffine } from '../core/ops/unpack.ts';
import { type Shape, ShapeError, show } from '../core/shape.ts';
import { type Data, leaf, type Tensor } from '../core/tensor.ts';
import { type Layer, layer } from '../nn/layer.ts';
import type { Scheme } from './quantize.ts';
import { half } from './round.ts';

export type Bits = 2 | 4;
export interface Affine {
  readonly codes: Uint8Array; // whole bytes per row, the first column in the highest bits; a rest is filled with zeros
  readonly scales: Float32Array; // [rows, groups per row]
  readonly zeros: Uint8Array; // as many; whole numbers from 0 to 2ᵇ − 1
}
type Matrix = readonly [rows: number, cols: number];
const bytesShape = ([rows, cols]: Matrix, bits: Bits): Matrix => [rows, Math.ceil((cols * bits) / 8)];
const groupsShape = ([rows, cols]: Matrix, group: number): Matrix => [rows, Math.ceil(cols / group)];

/**
 * Codes, scales and zero points of a table of numbers. A group of zeros has scale 1. Throws on NaN and on what is infinite in float32.
 */
export function quantizeAffine(w: ArrayLike<number>, shape: Matrix, bits: Bits, group = 64): Affine {
  if (!Number.isInteger(group) || group < 1) throw new RangeError(`quantizeAffine: group must be a whole number from 1, got ${group}`);
  const [rows, cols] = shape;
  if (w.length !== rows * cols) throw new ShapeError(`quantizeAffine: ${w.length} numbers for shape ${show(shape)}`);
  const [[, bytes], [, per], most] = [bytesShape(shape, bits), groupsShape(shape, group), 2 ** bits - 1];
  const codes = new Uint8Array(rows * bytes);
  const scales = new Float32Array(rows * per);
  const zeros = new Uint8Array(rows * per);
  const each = 8 / bits; // codes in a byte
  for (let g = 0; g < scales.length; g++) {
    const row = Math.floor(g / per);
    const [from, to] = [(g % per) * group, Math.min(((g % per) + 1) * group, cols)];
    let [low, high] = [0, 0];
    for (let x = from; x < to; x++) {
      const v = Math.fround(w[row * cols + x]!);
      if (!Number.isFinite(v))
        throw new RangeError(
          `quantizeAffine: number ${row * cols + x} is ${w[row * cols + x]}; only numbers finite in float32 can be quantised`,
        );
      low = Math.min(low, v);
      high = Math.max(high, v);
    }
    const s = Math.fround((high - low) / most) || 1; // a group of zeros, or one too small for float32
    scales[g] = s;
    const z = Math.max(0, Math.min(most, half(-low / s)));
    zeros[g] = z;
    for (let x = from; x < to; x++) {
      const q = Math.max(0, Math.min(most, half(Math.fround(w[row * cols + x]!) / s) + z));
      codes[row * bytes + Math.floor(x / each)]! |= q << (bits * (each - 1 - (x % each)));
    }
  }
  return { codes, scales, zeros };
}

/** Codes by weight, unpacked from their bytes. */
export function affineCodes(codes: Uint8Array, shape: Matrix, bits: Bits): Uint8Array {
  const [rows, cols] = shape;
  const [[, bytes], each] = [bytesShape(shape, bits), 8 / bits];
  return Uint8Array.from({ length: rows * cols }, (_, i) => {
    const x = i % cols;
    return (codes[Math.floor(i / cols) * bytes + Math.floor(x / each)]! >> (bits * (each - 1 - (x % each)))) & (2 ** bits - 1);
  });
}
/** The numbers that codes stand for, on the host. Zero points may be fractions: QA-LoRA merges into them. */
export function dequantizeAffine(
  { codes, scales, zeros }: Pick<Affine, 'codes' | 'scales'> & { readonly zeros: ArrayLike<number> },
  shape: Matrix,
  bits: Bits,
  group = 64,
): Float32Array {
  const [, cols] = shape;
  const [, per] = groupsShape(shape, group);
  return Float32Array.from(affineCodes(codes, shape, bits), (q, i) => {
    const g = Math.floor(i / cols) * per + Math.floor((i % cols) / group);
    return scales[g]! * (q - zeros[g]!);
  });
}

type Ins = 'codes' | 'scales' | 'zeros';
interface Attrs {
  readonly shape: Matrix;
  readonly bits: Bits;
  readonly group: number;
}
/** A weight layer over codes, scales and zero points; zeros may be a recipe. */
export const affineWeight = (fields: Readonly<Record<Ins, Tensor>>, { shape: [rows, cols], bits, group }: Attrs): Layer<'weight'> =>
  layer(
    'weight',
    { ...fields, bits, group, rows, cols },
    (f) => () =>
      unpackAffine({ codes: f.codes, scales: f.scales, zeros: f.zeros }, { shape: [rows, cols], bits, block: group, along: 'rows' }),
  );

/** What a weight unpacked from codes by group is made of, or null where a tensor is none: reading it does not unpack it. */
export function affineParts(w: Tensor): (Readonly<Record<Ins, Tensor>> & Attrs) | null {
  const { packing: p, parts } = packedParts(w) ?? {};
  if (p === undefined || p.form !== 'affine' || p.along !== 'rows' || p.bits === 8 || p.bits === 16) return null;
  if (p.from !== 0 || p.to !== p.shape[0]) return null; // some of its rows
  const { codes, scales, zeros } = parts as Readonly<Record<Ins, Tensor>>; // the form says what its parts are
  return { codes, scales, zeros, shape: p.shape, bits: p.bits, group: p.block };
}

const affine = (bits: Bits, group: number): Scheme => ({
  name: `int${bits}`,
  pack: (data: Data, shape: Shape) => {
    const m = matrix(bits, data, shape);
    const { codes, scales, zeros } = quantizeAffine(data, m, bits, group);
    const groups = groupsShape(m, group);
    return affineWeight(
      { codes: leaf(codes, bytesShape(m, bits)), scales: leaf(scales, groups), zeros: leaf(zeros, groups) },
      { shape: m, bits, group },
    );
  },
  round: (data: Data, shape: Shape) => {
    const m = matrix(bits, data, shape);
    return dequantizeAffine(quantizeAffine(data, m, bits, group), m, bits, group);
  },
});
function matrix(bits: Bits, data: Data, shape: Shape): Matrix {
  const [rows, cols] = shape;
  if (rows === undefined || cols === undefined || shape.length !== 2)
    throw new ShapeError(`int${bits}: packs matrices, got ${data.length} numbers of shape ${show(shape)}`);
  return [rows, cols];
}

interface AffineOptions {
  /** Consecutive weights of a row that share a scale and a zero point: 64. */
  readonly group?: number;
}
/** Asymmetric int4 as a scheme for `quantize`: 4 + 40/group bits per weight. */
export const int4 = ({ group = 64 }: AffineOptions = {}): Scheme => affine(4, group);
/** Asymmetric int2: 2 + 40/group bits per weight. */
export const int2 = ({ group = 64 }: AffineOptions = {}): Scheme => affine(2, group);
