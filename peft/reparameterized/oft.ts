// OFT: the input of a frozen weight is rotated block by block, which keeps lengths of and angles between the weight's rows.
//   y = W Rᵀ x + b,   R = blockdiag(R₁ … Rₙ),   Rᵢ = (I − Qᵢ)(I + Qᵢ)⁻¹,   Qᵢ skew-symmetric b × b, in = n·b
// Qiu et al. 2023, arXiv 2306.07280, §3; on the input: Qiu et al. 2025 (OFTv2), arXiv 2506.19847.
import { div, max, min, sqrt, square } from '../../core/ops/map.ts';
import { broadcastTo } from '../../core/ops/move.ts';
import { sum } from '../../core/ops/reduce.ts';
import { param, paramOf, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between } from '../check.ts';
import { cayley, neumann, skew, timesBlocks } from '../transforms.ts';
import { blockFits, keptBlocks } from './rotation.ts';

export interface OftConfig {
  readonly blockSize: number; // b, divides the input's size
  readonly share: boolean; // one rotation for all blocks of a layer
  readonly neumann: number; // 0: exact Cayley; else terms of I + 2Q + 2Q² + … (PEFT: 5), which tends to the transpose
  readonly epsilon: number | null; // constrained (COFT): after each step every ‖Qᵢ‖ ≤ ε/√n
  readonly dropout: number; // chance of a block to be I, in training
}
type Oft = { Q: Tensor }; // [n, b(b − 1)/2], or [1, …] shared: what stands above the diagonals

const stored = (into: number, { blockSize, share }: OftConfig): readonly [number, number] => [
  share ? 1 : into / blockSize,
  (blockSize * (blockSize - 1)) / 2,
];
/** R [n, b, b] */
function rotation({ Q }: Oft, { blockSize: b, neumann: terms }: OftConfig, into: number): Tensor {
  const r = terms === 0 ? cayley(skew(Q, b)) : neumann(skew(Q, b), terms);
  return broadcastTo(r, [into / b, b, b]);
}
/** v scaled down where ‖Q‖ = √2 ‖v‖ exceeds ε/√n. */
const shortened = (v: Tensor, epsilon: number): Tensor => {
  const length = sqrt(sum(square(v), [-1], true).mul(2));
  return v.mul(min(1, div(epsilon / Math.sqrt(v.shape[0]!), max(length, 1e-30))));
};

/** Q starts at 0, so that R = I. Defaults as PEFT's: blocks of 32, on q and v. Count: n·b(b − 1)/2, or b(b − 1)/2 shared. */
export const oft = defineMethod<'linear', OftConfig, Oft>({
  name: 'oft',
  family: 'reparameterized',
  paper: 'arXiv:2306.07280',
  at: 'linear',
  defaults: { blockSize: 32, share: false, neumann: 0, epsilon: null, dropout: 0, where: ['q', 'v'] },
  takes: { epsilon: [null, Number] },
  check: (site, c) => {
    blockFits('oft', site, c.blockSize);
    between('oft', 'dropout', c.dropout, 0, 1);
    if (c.neumann !== 0 && !(Number.isInteger(c.neumann) && c.neumann >= 4))
      throw new RangeError(`oft: neumann ${c.neumann} must be 0 (exact) or 4 terms and more; PEFT takes 5`);
    if (c.epsilon !== null && !(c.epsilon > 0)) throw new RangeError(`oft: epsilon ${c.epsilon} must be positive, or null for no bound`);
  },
  init: ({ shape: [, into] }, c) => {
    const [n, k] = stored(into!, c);
    return { train: { Q: param(new Float32Array(n * k), [n, k], { decay: false }) } };
  },
  around:
    (call, p, c, { shape, field }) =>
    (x, ctx) =>
      call(timesBlocks(x, keptBlocks(rotation(p, c, shape[1]!), c.dropout, field, ctx)), ctx),
  fold: ({ weight, bias }, p, c) => ({ weight: timesBlocks(weight, rotation(p, c, weight.shape[1]!).T), bias }), // W Rᵀ
  hooks: ({ Q }, { epsilon }) =>
    epsilon === null ? {} : { afterStep: ({ next }) => new Map([[paramOf(Q)!, shortened(next(paramOf(Q)!), epsilon)]]) },
  count: (sites, c) => {
    const train = sites.reduce((sum, { shape: [, into] }) => {
      const [n, k] = stored(into!, c);
      return sum + n * k;
    }, 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // the inverse of I is I up to rounding
});
