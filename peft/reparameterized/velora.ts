// VeLoRA: LoRA that keeps one number for each group of its input's features for backward, instead of the input.
//   forward: y = W x + b + s·B A x̃, as LoRA's;   x̃ = drop(x) cut into G groups x̃_g ∈ ℝ^{in/G},   z_g = x̃_g·v,   v = mean of all x̃_g, of length 1
//   backward: ∂A = κ Σ ∂(A x̃) x̂ᵀ with x̂_g = z_g v;   ∂x and ∂B as they are
// Miles et al. 2024, arXiv 2405.17991, §3, as built in PEFT: the last group is filled up with zeros where G does not divide the input.
import { max, sqrt, square, stopGradient } from '../../core/ops/map.ts';
import { pad } from '../../core/ops/move.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between, wholeNumber } from '../check.ts';
import { length } from '../linalg.ts';
import { checkUpdate, dropped, type Factors, factors, type LoraConfig, STARTS, scaling, update } from './lora.ts';
import { compressed } from './veloraProduct.ts';

export interface VeloraConfig extends LoraConfig {
  readonly groups: number; // G
  readonly scale: number; // κ
  readonly direction: 'average' | 'random'; // v: of what the layer is given, every time, or drawn once
}
type Velora = Factors & { v: Tensor }; // [in/G], where it is drawn

const groupWidth = (into: number, groups: number): number => Math.ceil(into / groups);

/** Defaults as PEFT's: 64 groups, κ = 1. Its `batch_average_once`, v of the first batch only, is not here: a step has no first batch. Count: LoRA's. */
export const velora = defineMethod<'linear', VeloraConfig, Velora>({
  name: 'velora',
  family: 'reparameterized',
  paper: 'arXiv:2405.17991',
  at: 'linear',
  defaults: {
    ...{ rank: 8, alpha: 8, rankStabilized: false, dropout: 0, init: 'kaiming', groups: 64, scale: 1, direction: 'average' },
    where: ['q', 'v'],
  },
  takes: { init: STARTS, direction: ['average', 'random'] },
  check: (site, c) => {
    checkUpdate('velora')(site, c);
    wholeNumber('velora', 'groups', c.groups);
    if (c.groups > site.shape[1]!)
      throw new RangeError(`velora: ${c.groups} groups at ${site.path}, whose input has ${site.shape[1]} features; take that many at most`);
    between('velora', 'scale', c.scale, Number.MIN_VALUE, Number.MAX_VALUE);
  },
  init: (site, c, r) => {
    const n = groupWidth(site.shape[1]!, c.groups);
    const drawn = r.split('v').normal(n);
    const norm = length(drawn);
    const v = drawn.map((x) => x / norm);
    return { train: factors(site, c, r), ...(c.direction === 'random' ? { fixed: { v: leaf(v, [n]) } } : {}) };
  },
  around:
    (call, { A, B, v: drawn }, c, site) =>
    (x, ctx) => {
      const input = dropped(x, c, site, ctx);
      const n = groupWidth(site.shape[1]!, c.groups);
      const pieces = pad(stopGradient(input), -1, 0, n * c.groups - site.shape[1]!).reshape(-1, c.groups, n); // [N, G, in/G]
      const mean = pieces.mean([0, 1]);
      const v = drawn ?? mean.div(sqrt(max(square(mean).sum(), 1e-30)));
      const z = pieces.mul(v).sum([2]); // [N, G]
      return call(x, ctx).add(compressed({ x: input, A, z, v }, { scale: c.scale }).matmul(B.T).mul(scaling(c)));
    },
  fold: update.fold,
  count: (sites, c) => {
    const { train } = update.count(sites, c);
    const drawn = c.direction === 'random' ? sites.reduce((n, { shape: [, into] }) => n + groupWidth(into!, c.groups), 0) : 0;
    return { train, stored: train + drawn };
  },
  startsAsBase: () => 'close', // adds an exact zero
  inexact: { A: 'it is taken from the compressed input' },
});
