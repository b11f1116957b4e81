// Matrices of GGUF files kept as small as they are stored: their codes become the packing of our own products, and nothing is rounded again.
//   Q8_0: w = d·q = (u − 128)·d, u = q + 128 · Q4_0: w = (q − 8)·d · Q4_1: w = d·q + m = (q − z)·d, z = −m/d (rounded to float32)
// F16 and BF16 stay halves. The other formats have no packing here; they are unpacked when they are read.
import { unpackAffine } from '../core/ops/unpack.ts';
import { leaf } from '../core/tensor.ts';
import { type Layer, layer } from '../nn/layer.ts';
import { halfWeight } from '../quant/half.ts';
import type { BlockFormat } from './ggufBlocks.ts';
import { halfToFloat } from './numbers.ts';

const BLOCK = 32;

/** A weight over the stored blocks of a matrix [rows, cols], or null for a format that has no packing here. */
export function packedWeight(bytes: Uint8Array, [rows, cols]: readonly [number, number], { name }: BlockFormat): Layer<'weight'> | null {
  if (name === 'F16' || name === 'BF16') return halfWeight(bytes, [rows, cols], name === 'F16' ? 'f16' : 'bf16');
  if (name !== 'Q8_0' && name !== 'Q4_0' && name !== 'Q4_1') return null;
  const blocks = (rows * cols) / BLOCK;
  const bits = name === 'Q8_0' ? 8 : 4;
  const each = bytes.length / blocks; // bytes of a block
  const codes = new Uint8Array((rows * cols * bits) / 8);
  const scales = new Float32Array(blocks);
  const zeros = name === 'Q4_1' ? new Float32Array(blocks) : new Uint8Array(blocks).fill(bits === 8 ? 128 : 8);
  const half = (at: number): number => halfToFloat(bytes[at]! | (bytes[at + 1]! << 8));
  for (let k = 0; k < blocks; k++) {
    const at = k * each;
    scales[k] = half(at);
    if (bits === 8) {
      for (let i = 0; i < BLOCK; i++) codes[k * BLOCK + i] = bytes[at + 2 + i]! ^ 128; // a signed byte, 128 more
      continue;
    }
    const from = at + each - BLOCK / 2;
    const code = (i: number): number => (i < 16 ? bytes[from + i]! & 15 : bytes[from + i - 16]! >> 4);
    for (let i = 0; i < BLOCK; i += 2) codes[(k * BLOCK + i) / 2] = (code(i) << 4) | code(i + 1);
    if (name === 'Q4_0') continue;
    const m = half(at + 2);
    if (scales[k] !== 0) zeros[k] = -m / scales[k]!;
    else {
      // All 32 are m: one step above a zero point of −1.
      codes.fill(0, (k * BLOCK) / 2, ((k + 1) * BLOCK) / 2);
      [scales[k], zeros[k]] = [m, -1];
    }
  }
  const per = cols / BLOCK;
  return layer(
    'weight',
    { codes: leaf(codes, [rows, (cols * bits) / 8]), scales: leaf(scales, [rows, per]), zeros: leaf(zeros, [rows, per]), rows, cols, bits },
    (f) => () =>
      unpackAffine(
        { codes: f.codes, scales: f.scales, zeros: f.zeros },
        { shape: [f.rows, f.cols], bits: f.bits === 8 ? 8 : 4, block: BLOCK, along: 'rows' },
      ),
  );
}
