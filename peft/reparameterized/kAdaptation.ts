// KAdaptation: an update as a sum of Kronecker products of "slow" factors that all layers share and "fast" ones of rank k for each layer.
//   y = W x + b + s·H x + c,   Hᵀ = Σᵢ Aᵢ ⊗ Bᵢ ∈ ℝ^{in×out},   Aᵢ = lᵢ rᵢᵀ ∈ ℝ^{n×n} shared by the layers of one name, Bᵢ = Sᵢ Tᵢ
//   Sᵢ ∈ ℝ^{in/n×k}, Tᵢ ∈ ℝ^{k×out/n}, i = 1 … n;   (lᵢ rᵢᵀ) ⊗ (Sᵢ Tᵢ) = (lᵢ ⊗ Sᵢ)(rᵢ ⊗ Tᵢ): an update of rank n·k, computed as such
// He et al. 2023, arXiv 2203.16329, §3, as the authors' code has it: n = 32, k = 1, s = 160, and a vector c that q and v of a block share.
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import { nameOf, once, placeOf, type Shared, sharedOf } from './kAdaptationShared.ts';

export interface KAdaptationConfig {
  readonly n: number; // of Kronecker products; divides both sides of the weight
  readonly rank: number; // k
  readonly scale: number; // s; not on c
  readonly bias: boolean; // whether there is c
}
/** l and r [n, n], one row for each i; S [n, in/n, k], T [n, k, out/n]; c [out] */
export type KAdaptation = { left: Tensor; right: Tensor; S: Tensor; T: Tensor; bias: Tensor };

const bound = (rows: number, cols: number): number => Math.sqrt(6 / (rows + cols));

/** The two factors of the update: [in, n·k] and [n·k, out]. */
function factors({ left, right, S, T }: KAdaptation): { down: Tensor; up: Tensor } {
  const [n, rows, k] = S.shape as [number, number, number];
  const cols = T.shape[2]!;
  const down = left.T.reshape(n, 1, n, 1).mul(S.permute(1, 0, 2).reshape(1, rows, n, k)); // [a, p, i, k]
  const up = right.reshape(n, 1, n, 1).mul(T.reshape(n, k, 1, cols)); // [i, k, b, q]
  return { down: down.reshape(n * rows, n * k), up: up.reshape(n * k, n * cols) };
}
/**
 * l, r ~ U(±0.01) and S = 0. The authors' code starts T at 0 as well, from where neither can move and c alone learns; here T is Glorot's.
 * Their dropout of half of H is left out: it needs H whole. Count: 2n² for each name, k(in + out) for each layer, and c for each block.
 */
export const kAdaptation = defineMethod<'linear', KAdaptationConfig, KAdaptation, Shared>({
  name: 'kAdaptation',
  family: 'reparameterized',
  paper: 'arXiv:2203.16329',
  at: 'linear',
  defaults: { n: 32, rank: 1, scale: 160, bias: true, where: ['q', 'v'] },
  check: (site, c) => {
    wholeNumber('kAdaptation', 'n', c.n);
    wholeNumber('kAdaptation', 'rank', c.rank);
    if (site.shape.some((s) => s % c.n !== 0))
      throw new RangeError(`kAdaptation: n ${c.n} at ${site.path} must divide both sides of its weight [${site.shape.join(', ')}]`);
    if (!(c.scale > 0)) throw new RangeError(`kAdaptation: scale ${c.scale} must be positive; the authors' code has 160`);
  },
  shared: sharedOf,
  init: (site, { n, rank, bias }, r, { shared }) => {
    const [rows, cols] = [site.shape[1]! / n, site.shape[0]! / n];
    const T = param(r.uniform(n * rank * cols, -bound(rank, cols), bound(rank, cols)), [n, rank, cols]);
    const fast = { S: param(new Float32Array(n * rows * rank), [n, rows, rank]), T };
    return { train: { ...shared.slow.get(nameOf(site))!, ...fast, ...(bias ? { bias: shared.bias.get(placeOf(site))! } : {}) } };
  },
  around:
    (call, p, { scale, bias }) =>
    (x, ctx) => {
      const { down, up } = factors(p);
      const y = call(x, ctx).add(x.matmul(down).matmul(up).mul(scale));
      return bias ? y.add(p.bias) : y;
    },
  fold: ({ weight, bias }, p, c) => {
    const { down, up } = factors(p);
    const b = c.bias ? (bias === null ? p.bias : bias.add(p.bias)) : bias;
    return { weight: weight.add(down.matmul(up).T.mul(c.scale)), bias: b };
  },
  count: (sites, { n, rank, bias }) => {
    const fast = sites.reduce((sum, { shape: [out, into] }) => sum + rank * (out! + into!), 0);
    const train = fast + once(sites, nameOf, () => 2 * n * n) + (bias ? once(sites, placeOf, (s) => s.shape[0]!) : 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds exact zeros
});
