// LoKr: the update of a weight as a Kronecker product, its larger factor of low rank.
//   y = W x + b + s·(W₁ ⊗ W₂) x,   W₁ ∈ ℝ^{l×m}, W₂ = W₂ₐW₂ᵦ ∈ ℝ^{k×n}, out = l·k, in = m·n, s = α/r
// Yeh et al. 2023 (LyCORIS), arXiv 2309.14859. (W₁ ⊗ W₂)x is computed as W₁ X W₂ᵀ from x as a table X [m, n].
import type { Rng } from '../../core/rng.ts';
import { type Shape, size } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { factorization, kron, timesKron } from '../transforms.ts';
import { checkLycoris, kaiming, keptRows, type LycorisConfig, zeros } from './lycoris.ts';

export interface LokrConfig extends LycorisConfig {
  readonly factor: number; // the smaller factor of each side; −1: as near to its root as it divides
  readonly decomposeBoth: boolean; // W₁ of low rank too
  readonly rescale: boolean; // make up for dropped rows
  readonly init: 'zero' | 'lycoris'; // what starts at 0: W₁, or W₂
}
/** A factor whole, or as a product [rows, r]·[r, cols]. */
type Lokr = { w1?: Tensor; w1a?: Tensor; w1b?: Tensor; w2?: Tensor; w2a?: Tensor; w2b?: Tensor };

/** Shapes of the tensors: a factor is split where the rank is below half its longer side. */
function shapes([out, into]: Shape, { rank, factor, decomposeBoth }: LokrConfig): { [name: string]: Shape } {
  const [[l, k], [m, n]] = [factorization(out!, factor), factorization(into!, factor)];
  const split = (name: string, rows: number, cols: number, wanted: boolean): { [name: string]: Shape } =>
    wanted && rank < Math.max(rows, cols) / 2 ? { [`${name}a`]: [rows, rank], [`${name}b`]: [rank, cols] } : { [name]: [rows, cols] };
  return { ...split('w1', l, m, decomposeBoth), ...split('w2', k, n, true) };
}
/** W₁ (or W₁ₐ) starts at 0; LyCORIS has W₂ (or W₂ᵦ) there. The others are Kaiming-uniform. */
const start = (site: Shape, c: LokrConfig, r: Rng): Lokr => {
  const zero = c.init === 'zero' ? ['w1', 'w1a'] : ['w2', 'w2b'];
  return Object.fromEntries(Object.entries(shapes(site, c)).map(([k, s]) => [k, zero.includes(k) ? zeros(s) : kaiming(s, r.split(k))]));
};
const factors = (p: Lokr): readonly [Tensor, Tensor] => [p.w1 ?? p.w1a!.matmul(p.w1b!), p.w2 ?? p.w2a!.matmul(p.w2b!)];

/** Defaults as PEFT's: rank 8, alpha 8 (s = α/r even where no factor is split), on q and v. Count: the factors' sizes. */
export const lokr = defineMethod<'linear', LokrConfig, Lokr>({
  name: 'lokr',
  family: 'reparameterized',
  paper: 'arXiv:2309.14859',
  at: 'linear',
  defaults: {
    rank: 8,
    alpha: 8,
    factor: -1,
    decomposeBoth: false,
    rankDropout: 0,
    moduleDropout: 0,
    rescale: false,
    init: 'zero',
    where: ['q', 'v'],
  },
  takes: { init: ['zero', 'lycoris'] },
  check: (site, c) => {
    checkLycoris('lokr', site, c);
    if (!Number.isInteger(c.factor) || (c.factor < 1 && c.factor !== -1))
      throw new RangeError(`lokr: factor ${c.factor} at ${site.path} must be a whole number from 1, or −1 for the squarest factors`);
  },
  init: ({ shape }, c, r) => ({ train: start(shape, c, r) }),
  around: (call, p, c, site) => (x, ctx) => {
    const y = timesKron(x, ...factors(p)).mul(c.alpha / c.rank);
    return call(x, ctx).add(keptRows(y, c, site, ctx, c.rescale));
  },
  fold: ({ weight, bias }, p, c) => ({ weight: weight.add(kron(...factors(p)).mul(c.alpha / c.rank)), bias }),
  count: (sites, c) => {
    const train = sites.reduce((n, s) => n + Object.values(shapes(s.shape, c)).reduce((m, one) => m + size(one), 0), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
