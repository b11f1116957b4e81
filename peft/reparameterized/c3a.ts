// C3A: the update is made of circulant blocks, each given by one row: a circular convolution of the input's blocks.
//   y = W x + b + C x/in,   block (m, n) of C [out/b × in/b blocks of b × b]: C_kt = w_mn[(t − k) mod b]
//   computed frequency by frequency, as convolutions are: ŷ = conj(ŵ) x̂, never as a matrix of in × out
// Chen et al. 2024, arXiv 2407.19342, §3. Rank up to min(in, out) for in·out/b numbers. w ~ U(±√(6/(in + out))): not the base at the start.
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import { circulant, convolved } from './circulant.ts';

export interface C3aConfig {
  readonly blockSize: number; // b, divides both sides of the weight
  readonly init: 'xavier' | 'kaiming' | 'gaussian' | 'zero';
}
type C3a = { w: Tensor }; // [out/b, in/b, b]

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
  takes: { init: ['xavier', 'kaiming', 'gaussian', 'zero'] },
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
      call(x, ctx).add(convolved(x, p.w).mul(1 / into!)),
  fold: ({ weight, bias }, p) => ({ weight: weight.add(circulant(p.w).mul(1 / weight.shape[1]!)), bias }),
  count: (sites, { blockSize }) => {
    const train = sites.reduce((n, { shape: [out, into] }) => n + (out! * into!) / blockSize, 0);
    return { train, stored: train };
  },
  startsAsBase: ({ init }) => (init === 'zero' ? 'close' : 'no'),
});
