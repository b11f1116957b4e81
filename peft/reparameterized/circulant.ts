// A matrix of circulant blocks for C3A: each block is given by one row, w_mn ∈ ℝ^b, and multiplies by a circular convolution.
//   C_kt = w_mn[(t − k) mod b] in block (m, n);   C x frequency by frequency: ŷ = conj(ŵ) x̂, never as a matrix of in × out
import { iota } from '../../core/ops/index.ts';
import { cos, sin } from '../../core/ops/map.ts';
import { broadcastTo, concat, roll } from '../../core/ops/move.ts';
import type { Tensor } from '../../core/tensor.ts';
import { angles } from './fourierft.ts';

/**
 * C [out, in]. Each w, written twice in a row and once for every row of its block, read again with rows one shorter: every row
 * starts one further to the left.
 */
export function circulant(w: Tensor): Tensor {
  const [m, n, b] = w.shape as [number, number, number];
  const next = roll(w, -1, 2); // so that row 0 starts at w[0]
  const rows = broadcastTo(concat([next, next], 2).reshape(m, n, 1, 2 * b), [m, n, b, 2 * b]).reshape(m, n, 2 * b * b);
  const skewed = rows.slice(2, 0, b * (2 * b - 1)).reshape(m, n, b, 2 * b - 1);
  return skewed
    .slice(3, b - 1)
    .permute(0, 2, 1, 3)
    .reshape(m * b, n * b);
}
/** C x for x [.., in]: the blocks' spectra (real and imaginary parts), a product for each of the b frequencies, and back. */
export function convolved(x: Tensor, w: Tensor): Tensor {
  const [m, n, b] = w.shape as [number, number, number];
  const angle = angles(b, iota(b)); // 2π·k·f/b, [b, b]
  const [re, im] = [cos(angle), sin(angle)];
  const blocks = x.reshape(-1, n, b);
  const spectrum = concat([blocks.matmul(re), blocks.matmul(im)], 1).permute(2, 0, 1); // [f, N, 2n]
  const [wr, wi] = [w.matmul(re), w.matmul(im)]; // [m, n, f]
  const product = concat([concat([wr, wi], 1), concat([wi, wr.neg()], 1)], 0).permute(2, 1, 0); // [f, 2n, 2m]
  const y = spectrum.matmul(product).permute(1, 2, 0); // [N, 2m, f]
  return y
    .slice(1, 0, m)
    .matmul(re)
    .sub(y.slice(1, m).matmul(im))
    .mul(1 / b)
    .reshape(...x.shape.slice(0, -1), m * b);
}
