// Blockwise int8: eight bits per weight and one scale per block of a row.
//   c = max |w| over a block,  q = round(127·w / c) ∈ {−127 … 127},  ŵ = c·q / 127,  so |w − ŵ| ≤ c/254
// Absmax quantisation as in LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339, §2), with the blocks of 8-bit optimizers
// (Dettmers et al. 2022, arXiv 2110.02861, §2.1) laid within rows, so that a kernel finds a weight's scale by its column.
import { unpackInt8 } from '../core/ops/unpack.ts';
import { dim, type Shape, ShapeError, show, table } from '../core/shape.ts';
import { type Data, leaf, type Tensor } from '../core/tensor.ts';
import { layer } from '../nn/layer.ts';
import type { Scheme } from './quantize.ts';
import { half } from './round.ts';

export interface Int8 {
  readonly codes: Int8Array; // as many as weights
  readonly scales: Float32Array; // [rows, blocks per row]: the largest magnitude of each block
}

const blocksIn = (cols: number, block: number): number => Math.ceil(cols / block);

/**
 * Codes and scales of a table of numbers; `block` (64) consecutive columns of one row share a scale, the last block of a row may
 * be shorter. A block of zeros has scale 0. Throws on NaN and infinities.
 */
export function quantizeInt8(w: ArrayLike<number>, shape: Shape, block = 64): Int8 {
  if (!Number.isInteger(block) || block < 1) throw new RangeError(`int8: block must be a whole number from 1, got ${block}`);
  const { rows, cols } = table(shape);
  if (w.length !== rows * cols) throw new ShapeError(`int8: ${w.length} numbers for shape ${show(shape)}`);
  const per = blocksIn(cols, block);
  const codes = new Int8Array(rows * cols);
  const scales = new Float32Array(rows * per);
  for (let k = 0; k < scales.length; k++) {
    const start = Math.floor(k / per) * cols + (k % per) * block;
    const end = Math.min(start + block, (Math.floor(k / per) + 1) * cols);
    let c = 0;
    for (let i = start; i < end; i++) {
      const v = Math.abs(w[i]!);
      if (!Number.isFinite(v)) throw new RangeError(`int8: weight ${i} of ${show(shape)} is ${w[i]}; only finite numbers can be quantised`);
      c = Math.max(c, v);
    }
    scales[k] = c;
    // The float32 scale may be below a float64 maximum, and is 0 for the smallest numbers.
    const s = scales[k]!;
    if (s > 0) for (let i = start; i < end; i++) codes[i] = Math.max(-127, Math.min(127, half((127 * w[i]!) / s)));
  }
  return { codes, scales };
}

/** The numbers that codes stand for, on the host. */
export function dequantizeInt8({ codes, scales }: Int8, shape: Shape, block = 64): Float32Array {
  const { cols } = table(shape);
  const per = blocksIn(cols, block);
  return Float32Array.from(codes, (q, i) => (q * scales[Math.floor(i / cols) * per + Math.floor((i % cols) / block)]!) / 127);
}

/** codes [m, n], scales [m, ⌈n/block⌉] → weights [m, n]. Frozen: it has no derivative in either. Backward unpacks again. */
export const dequantize = (codes: Tensor, scales: Tensor, block: number): Tensor =>
  unpackInt8({ codes, scales }, { shape: [dim(codes.shape, 0), dim(codes.shape, 1)], block, along: 'rows' });

/** Blockwise int8 as a scheme for `quantize`: about 1 + 4/block bytes per weight. */
export const int8 = ({ block = 64 }: { block?: number } = {}): Scheme => ({
  name: 'int8',
  pack: (data: Data, shape: Shape) => {
    if (shape.length !== 2) throw new ShapeError(`int8: packs matrices, got ${data.length} numbers of shape ${show(shape)}`);
    const { codes, scales } = quantizeInt8(data, shape, block);
    const blocks = blocksIn(dim(shape, -1), block);
    return layer(
      'weight',
      { codes: leaf(codes, shape), scales: leaf(scales, shape.with(-1, blocks)), block },
      (f) => () => dequantize(f.codes, f.scales, f.block),
    );
  },
  round: (data: Data, shape: Shape) => dequantizeInt8(quantizeInt8(data, shape, block), shape, block),
});
