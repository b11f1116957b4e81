// C3A: the update is made of circulant blocks, each given by one row: a circular convolution of the input's blocks.
//   y = W x + b + C x/in,   block (m, n) of C [out/b × in/b blocks of b × b]: C_kt = w_mn[(t − k) mod b]
//   computed frequency by frequency, as convolutions are: ŷ = conj(ŵ) x̂, never as a matrix of in × out
// Chen et al. 2024, arXiv 2407.19342, §3. Rank up to min(in, out) for in·out/b numbers. w ~ U(±√(6/(in + out))): not the base at the start.
import { iota } from '../../core/ops/index.ts';
import { cos, sin } from '../../core/ops/map.ts';
import { broadcastTo, concat, roll } from '../../core/ops/move.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import { angles } from './fourierft.ts';

export interface C3aConfig {
  readonly blockSize: number; // b, divides both sides of the weight
  readonly init: 'xavier' | 'kaiming' | 'gaussian' | 'zero';
}
type C3a = { w: Tensor }; // [out/b, in/b, b]

/**
 * C [out, in]. Each w, written twice in a row and once for every row of its block, read again with rows one shorter: every row
 * starts one further to the left.
 */
function circulant({ w }: C3a): Tensor {
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
function convolved(x: Tensor, { w }: C3a): Tensor {
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
const bound = {
  xavier: (out: number, into: number) => Math.sqrt(6 / (out + into)),
  kaiming: (_: number, into: number) => Math.sqrt(1 / into),
};

/** Count: in·out/b for each layer. */
export const c3a = defineMethod<'linear', C3aConfig, C3a>({
  name: 'c3a',
  family: 'reparameterized',
  paper: 'arXiv:2407.19342',
  at: 'linear',
  defaults: { blockSize: 256, init: 'xavier', where: ['q', 'v'] },
  check: ({ path, shape }, { blockSize: b }) => {
    wholeNumber('c3a', 'blockSize', b);
    if (shape.some((n) => n % b !== 0))
      throw new RangeError(
        `c3a: blockSize ${b} must divide both sides of the weight [${shape.join(', ')}] at ${path}; choose a common divisor`,
      );
  },
  init: ({ shape: [out, into] }, { blockSize: b, init }, r) => {
    const n = (out! * into!) / b;
    const a = init === 'xavier' || init === 'kaiming' ? bound[init](out!, into!) : 0;
    const values = init === 'zero' ? new Float32Array(n) : init === 'gaussian' ? r.normal(n, 1) : r.uniform(n, -a, a);
    return { train: { w: param(values, [out! / b, into! / b, b]) } };
  },
  around:
    (call, p, _, { shape: [, into] }) =>
    (x, ctx) =>
      call(x, ctx).add(convolved(x, p).mul(1 / into!)),
  fold: ({ weight, bias }, p) => ({ weight: weight.add(circulant(p).mul(1 / weight.shape[1]!)), bias }),
  count: (sites, { blockSize }) => {
    const train = sites.reduce((n, { shape: [out, into] }) => n + (out! * into!) / blockSize, 0);
    return { train, stored: train };
  },
  startsAsBase: ({ init }) => (init === 'zero' ? 'close' : 'no'),
});
