// Double quantisation: the scales of packed weights, themselves in eight bits.
//   μ = mean of the scales c,  d = max |c − μ| over 256 consecutive scales,  q = nearest code of (c − μ) / d,  ĉ = μ + d·map[q]
// Dettmers et al. 2023 (QLoRA), arXiv 2305.14314, §3. The paper says FP8; its code uses the dynamic map of 8-bit optimizers
// (Dettmers et al. 2022, arXiv 2110.02861, §1.3), and so does this. 8/64 + 32/(64·256) = 0.127 bits per weight instead of 0.5.

import { type Blocks, type Codebook, codebook, dynamicValues, quantizeBlocks } from '../core/codebook.ts';
import { blocksShape, unpackShifted } from '../core/ops/unpack.ts';
import { dim, type Shape, ShapeError, show } from '../core/shape.ts';
import { leaf, type Tensor } from '../core/tensor.ts';
import type { ScaleStore } from './nf4.ts';

/** The signed dynamic map: 256 ascending values from −0.99297 to 1, dense near 0; code 127 is 0. No two are farther apart than 0.9/64. */
export const dynamicMap: Codebook = codebook(dynamicValues(true));

export interface QuantizedScales extends Blocks {
  readonly offset: number; // μ
}

/** Scales in eight bits; `block` (256) consecutive ones share a scale of their own. Throws on NaN and infinities. */
export function quantizeScales(c: Float32Array, block = 256): QuantizedScales {
  const offset = Math.fround(c.reduce((s, v) => s + v, 0) / Math.max(c.length, 1));
  return {
    ...quantizeBlocks(
      c.map((v) => v - offset),
      block,
      dynamicMap,
      'quantizeScales',
    ),
    offset,
  };
}
/** The scales that codes stand for, on the host. */
export const dequantizeScales = ({ codes, scales, offset }: QuantizedScales, block = 256): Float32Array =>
  Float32Array.from(codes, (q, i) => Math.fround(dynamicMap.values[q]! * scales[Math.floor(i / block)]!) + offset);

type Ins = 'codes' | 'absmax' | 'values' | 'offset';
/** Scales kept in eight bits, for `nf4({ scales: doubleQuant() })`. */
export const doubleQuant = ({ block = 256 }: { block?: number } = {}): ScaleStore<Record<Ins, Tensor>> => ({
  name: 'double-quantised',
  pack: (scales: Float32Array, shape: Shape) => {
    const [rows, cols] = shape;
    if (rows === undefined || cols === undefined) throw new ShapeError(`doubleQuant: scales must be a table, got ${show(shape)}`);
    const q = quantizeScales(scales, block);
    return {
      codes: leaf(q.codes, shape),
      absmax: leaf(q.scales, blocksShape([rows, cols], block)),
      values: leaf(dynamicMap.values, [1, 256]), // one array for all weights
      offset: leaf([q.offset], [1]),
    };
  },
  unpack: ({ codes, absmax, values, offset }) =>
    unpackShifted({ codes, scales: absmax, values, offset }, { shape: [dim(codes.shape, 0), dim(codes.shape, 1)], bits: 8, block }),
  round: (scales) => dequantizeScales(quantizeScales(scales, block), block),
});
