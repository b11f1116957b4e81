// TinyLoRA: a handful of numbers steer fixed random mixtures of the weight's own principal directions.
//   y = W x + b + B (Σᵢ vᵢ Pᵢ) A drop(x),   W ≈ U_r S_r V_rᵀ,  A = √S_r V_rᵀ,  B = U_r √S_r,  Pᵢ ~ N(0, 1/r) fixed,  v ∈ ℝᵘ
// arXiv 2602.04118, as built in PEFT. v starts at 0; layers may share one v in groups (`tying`), all of them at 1.
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between, dropoutFits, rankFits, wholeNumber } from '../check.ts';
import { svd } from '../linalg.ts';
import { dropped } from './lora.ts';
import { halved } from './residual.ts';

export interface TinyLoraConfig {
  readonly rank: number;
  readonly size: number; // u, numbers trained in a group
  readonly tying: number; // 0: one group for each layer … 1: one for all
  readonly init: 'zero' | 'uniform'; // v = 0, or U(±0.02)
  readonly dropout: number; // on x, on this branch only
}
type TinyLora = { A: Tensor; B: Tensor; P: Tensor; v: Tensor };

/** Half to even, as Python rounds: files have the groups that it makes. */
const evenly = (x: number): number => (x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));
const groups = (sites: number, tying: number): number => Math.max(1, evenly(sites * (1 - tying)));
/** Which group the k-th of n layers is in: groups of equal size in order, the last takes the rest. */
export const groupOf = (k: number, n: number, tying: number): number =>
  Math.min(Math.floor(k / Math.max(1, Math.floor(n / groups(n, tying)))), groups(n, tying) - 1);
/** R = Σ vᵢ Pᵢ, [r, r] */
const mixed = ({ P, v }: TinyLora, { rank, size }: TinyLoraConfig): Tensor => v.reshape(1, size).matmul(P).reshape(rank, rank);

/** Count: u for each group of layers; stored besides: A, B and P of every layer. */
export const tinyLora = defineMethod<'linear', TinyLoraConfig, TinyLora, ReadonlyMap<string, Tensor>>({
  name: 'tinyLora',
  family: 'reparameterized',
  paper: 'arXiv:2602.04118',
  at: 'linear',
  defaults: { rank: 2, size: 64, tying: 0, init: 'zero', dropout: 0, where: ['q', 'v'] },
  takes: { init: ['zero', 'uniform'] },
  readsWeight: true,
  check: (site, c) => {
    rankFits('tinyLora', site, c.rank);
    wholeNumber('tinyLora', 'size', c.size);
    between('tinyLora', 'tying', c.tying, 0, 1, true);
    dropoutFits('tinyLora', c.dropout);
  },
  shared: (sites, { size, tying, init }, r) => {
    const vs = Array.from({ length: groups(sites.length, tying) }, (_, k) =>
      param(init === 'zero' ? new Float32Array(size) : r.split(`v${k}`).uniform(size, -0.02, 0.02), [size]),
    );
    return new Map(sites.map((s, k) => [s.path, vs[groupOf(k, sites.length, tying)]!]));
  },
  init: ({ path, shape: [out, into] }, { rank, size }, r, { shared, weight }) => {
    const { u, s, vt } = svd(weight(), out!, into!, rank);
    const { a, b } = halved(u, s, vt, 1);
    return {
      train: { v: shared.get(path)! },
      fixed: {
        A: leaf(a, [rank, into!]),
        B: leaf(b, [out!, rank]),
        P: leaf(r.normal(size * rank ** 2, 1 / Math.sqrt(rank)), [size, rank ** 2]),
      },
    };
  },
  around: (call, p, c, site) => (x, ctx) => call(x, ctx).add(dropped(x, c, site, ctx).matmul(p.A.T).matmul(mixed(p, c).T).matmul(p.B.T)),
  fold: ({ weight, bias }, p, c) => ({ weight: weight.add(p.B.matmul(mixed(p, c)).matmul(p.A)), bias }),
  count: (sites, { rank, size, tying }) => {
    const used = new Set(sites.map((_, k) => groupOf(k, sites.length, tying))).size;
    const fixed = sites.reduce((n, { shape: [out, into] }) => n + rank * (out! + into!) + size * rank ** 2, 0);
    return { train: used * size, stored: used * size + fixed };
  },
  startsAsBase: ({ init }) => (init === 'zero' ? 'close' : 'no'),
});
