// RandLoRA: enough random low-rank products for full rank, frozen, of which only diagonal scalings are trained.
//   y = W x + b + (α/r) Σⱼ Bⱼ Λⱼ A Γⱼ drop(x),   j = 1 … n = ⌈min(in, out)/r⌉,   Bⱼ ∈ ℝ^{out×r} and one A ∈ ℝ^{r×in} frozen
//   Λⱼ (r numbers) starts at 0, Γⱼ (in numbers) at 1/max(n, in).   Where out < in, the same transposed: A is on the smaller side.
// Albert et al. 2025, arXiv 2502.00987, §4. A and B are shared by all layers, cut to size, of unit deviation; sparse ones hold −1, 0 and 1.
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { dropoutFits, rankFits } from '../check.ts';
import { dropped } from './lora.ts';
import { cut, drawnBases, sides, whole } from './randloraBases.ts';

export interface RandloraConfig {
  readonly rank: number;
  readonly alpha: number;
  readonly bases: 'dense' | 'sparse' | 'verySparse'; // uniform; or ±1 with chance 1/3, or 1/√smaller side, in all
  readonly dropout: number; // on x, on this branch only
}
export type Randlora = { A: Tensor; B: Tensor; lambda: Tensor; gamma: Tensor }; // [r, small], [large, n, r], [r, n], [n, small]

/**
 * The two factors of the sum: [r·n, small] and [large, n·r]. Their inner numbers are taken as they lie, as the authors' code has it: which column of
 * the one meets which row of the other is another choice among equally random ones.
 */
function factors({ A, B, lambda, gamma }: Randlora): { inner: Tensor; outer: Tensor } {
  const [r, n] = lambda.shape as [number, number];
  const small = gamma.shape[1]!;
  const inner = lambda
    .reshape(r, n, 1)
    .mul(A.slice(1, 0, small).reshape(r, 1, small))
    .mul(gamma);
  return { inner: inner.reshape(r * n, small), outer: B.reshape(-1, n * r) };
}

/** Count: n(r + min(in, out)) for each layer; stored besides, once: A and B. */
export const randlora = defineMethod<'linear', RandloraConfig, Randlora, Pick<Randlora, 'A' | 'B'>>({
  name: 'randlora',
  family: 'reparameterized',
  paper: 'arXiv:2502.00987',
  at: 'linear',
  defaults: { rank: 32, alpha: 640, bases: 'dense', dropout: 0, where: ['q', 'v'] },
  takes: { bases: ['dense', 'sparse', 'verySparse'] },
  check: (site, c) => {
    rankFits('randlora', site, c.rank);
    dropoutFits('randlora', c.dropout);
    if (!(c.alpha > 0)) throw new RangeError(`randlora: alpha ${c.alpha} must be positive; PEFT takes 20 times the rank`);
  },
  shared: drawnBases,
  init: ({ shape }, { rank }, _, { shared }) => {
    const { small } = sides(shape);
    const n = Math.ceil(small / rank);
    const start = 1 / Math.max(n, small);
    return {
      train: { lambda: param(new Float32Array(n * rank), [rank, n]), gamma: param(new Float32Array(n * small).fill(start), [n, small]) },
      fixed: shared,
    };
  },
  around: (call, p, c, site) => {
    const { inner, outer } = factors(cut(p, site.shape));
    const [down, up] = site.shape[1]! <= site.shape[0]! ? [inner.T, outer.T] : [outer, inner];
    return (x, ctx) =>
      call(x, ctx).add(
        dropped(x, c, site, ctx)
          .matmul(down)
          .matmul(up)
          .mul(c.alpha / c.rank),
      );
  },
  fold: ({ weight, bias }, p, c) => {
    const { inner, outer } = factors(cut(p, weight.shape));
    const change = weight.shape[1]! <= weight.shape[0]! ? outer.matmul(inner) : inner.T.matmul(outer.T);
    return { weight: weight.add(change.mul(c.alpha / c.rank)), bias };
  },
  count: (sites, { rank }) => {
    const train = sites.reduce((sum, { shape }) => sum + Math.ceil(sides(shape).small / rank) * (rank + sides(shape).small), 0);
    const { n, small, large } = whole(sites, rank);
    return { train, stored: train + rank * small + n * large * rank }; // A and B once, for all sites
  },
  startsAsBase: () => 'close', // adds an exact zero
});
