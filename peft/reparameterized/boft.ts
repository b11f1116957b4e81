// BOFT: a rotation of the input made of sparse ones, as a fast Fourier transform is: block rotations between butterflies.
//   y = s ⊙ (W Rᵀ x) + b,   R = B_m ⋯ B_1,   B_i = P_i blockdiag(R_i1 … R_in) P_iᵀ,   R_ij = (I − S)(I + S)⁻¹, S = ½(X − Xᵀ)
// Liu et al. 2023, arXiv 2311.06243, §4; s and the full X are the authors' code. P_i brings together halves of blocks that
// stand 2^{i−2} blocks apart (P_1 = I), so that after m = log₂ n + 1 factors every input may reach every other.
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between, wholeNumber } from '../check.ts';
import { effective } from '../site.ts';
import { cayley, timesBlocks } from '../transforms.ts';
import { blockFits, keptBlocks } from './rotation.ts';

export interface BoftConfig {
  readonly blockSize: number; // b
  readonly factors: number; // m, 1: block-diagonal
  readonly dropout: number; // chance of a block to be I, in training
}
type Boft = { X: Tensor; s: Tensor }; // [m, n, b, b], [out]

/** x P for the i-th factor (from 0), or x Pᵀ: in each run of 2ⁱ blocks, half-blocks 2q + h change places with h·2ⁱ + q. */
function butterfly(x: Tensor, i: number, b: number, back: boolean): Tensor {
  if (i === 0) return x;
  const [group, half] = [2 ** i, b / 2];
  const runs = x.shape.reduce((a, n) => a * n, 1) / (group * b);
  const table = back ? x.reshape(runs, group, 2, half) : x.reshape(runs, 2, group, half);
  return table.permute(0, 2, 1, 3).reshape(...x.shape);
}
/** x R for the rows of x, or x Rᵀ. */
function rotated(x: Tensor, r: readonly Tensor[], b: number, transposed: boolean): Tensor {
  const factors = transposed ? [...r.entries()] : [...r.entries()].reverse(); // x R = x B_m ⋯ B_1
  return factors.reduce((y, [i, one]) => butterfly(timesBlocks(butterfly(y, i, b, false), transposed ? one.T : one), i, b, true), x);
}
const rotations = ({ X }: Boft): Tensor[] => {
  const [m, n, b] = X.shape as [number, number, number];
  const all = cayley(X.sub(X.T).mul(0.5)); // [m, n, b, b]
  return Array.from({ length: m }, (_, i) => all.slice(0, i, i + 1).reshape(n, b, b));
};

/** X starts at 0 and s at 1, which weight decay leaves alone. Defaults: blocks of 4, one factor, on q and v. Count: m·in·b + out. */
export const boft = defineMethod<'linear', BoftConfig, Boft>({
  name: 'boft',
  family: 'reparameterized',
  paper: 'arXiv:2311.06243',
  at: 'linear',
  defaults: { blockSize: 4, factors: 1, dropout: 0, where: ['q', 'v'] },
  check: (site, { blockSize, factors, dropout }) => {
    wholeNumber('boft', 'factors', factors);
    between('boft', 'dropout', dropout, 0, 1);
    if (factors > 1 && blockSize % 2 !== 0)
      throw new RangeError(
        `boft: blockSize ${blockSize} at ${site.path} must be even and above 0: with more than one factor, blocks exchange halves`,
      );
    blockFits('boft', site, blockSize, 2 ** (factors - 1));
    site.bias(); // refused here where a method beneath cannot be folded: its bias is not to be told apart
  },
  init: ({ shape: [out, into] }, { blockSize: b, factors: m }) => ({
    train: {
      X: param(new Float32Array(m * into! * b), [m, into! / b, b, b], { decay: false }),
      s: param(new Float32Array(out!).fill(1), [out!], { decay: false }),
    },
  }),
  around: (call, p, c, site) => (x, ctx) => {
    const r = rotations(p).map((one, i) => keptBlocks(one, c.dropout, `${site.field} ${i}`, ctx));
    const { bias } = effective(call, site.path, ctx); // not scaled
    const y = call(rotated(x, r, c.blockSize, false), ctx); // W Rᵀ x + b
    return bias === null ? y.mul(p.s) : y.sub(bias).mul(p.s).add(bias);
  },
  fold: ({ weight, bias }, p, c) => ({ weight: rotated(weight, rotations(p), c.blockSize, true).mul(p.s.reshape(-1, 1)), bias }),
  count: (sites, { blockSize: b, factors: m }) => {
    const train = sites.reduce((n, { shape: [out, into] }) => n + m * into! * b + out!, 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // the inverse of I is I up to rounding
});
