// Compacter: Houlsby's adapter with both projections as sums of Kronecker products, whose left factors all layers share.
//   x H + b,   H = Σ_i A_i ⊗ (S_i T_i) ∈ ℝ^{in×out},   A_i ∈ ℝ^{n×n},  S_i ∈ ℝ^{in/n×k},  T_i ∈ ℝ^{k×out/n},   i = 1 … n
//   h' = h + (σ(h H_down + b_down)) H_up + b_up
// Karimi Mahabadi et al. 2021, arXiv 2106.04647, §3. Compacter++ has it after the feed-forward sublayer only.
import { param, type Tensor } from '../../core/tensor.ts';
import { activations } from '../../nn/mlp.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import { hybrid } from '../combine.ts';
import type { Options, Transform } from '../method.ts';
import { type BottleneckConfig, checkBottleneck, TAKES, widthOf } from './bottleneck.ts';
import { reading } from './pfeiffer.ts';
import { glorot, phm } from './phm.ts';

export interface CompacterConfig extends BottleneckConfig {
  readonly n: number; // of Kronecker products
  readonly rank: number; // k
  readonly std: number; // A ~ N(0, std²)
  readonly init: 'glorotUniform' | 'glorotNormal'; // of each S_i and T_i
  readonly reads: 'answer' | 'sum'; // h, or the (normalised) sum of h and the stream, as Pfeiffer's adapter
}
/** A [n, n, n]; S [n, in/n, k] and T [n, k, out/n] of each projection. */
type Compacter = { A: Tensor; downS: Tensor; downT: Tensor; downBias: Tensor; upS: Tensor; upT: Tensor; upBias: Tensor };

/**
 * The authors start S and T with Glorot's uniform, AdapterHub in fact with his normal; both start A with std 1e-4, so that a fresh one
 * hardly differs from the base, and train with a large learning rate (3e-3), the norms unfrozen.
 * Count: n³ once, and 2k(d + m) + m + d at each place, of which Compacter has 2L and Compacter++ L.
 */
export const compacter = defineMethod<'branch', CompacterConfig, Compacter, Tensor>({
  name: 'compacter',
  family: 'additive',
  paper: 'arXiv:2106.04647',
  at: 'branch',
  defaults: {
    ...{ n: 4, rank: 1, bottleneck: null, reduction: 32, activation: 'gelu', std: 1e-4, init: 'glorotUniform', reads: 'answer' },
    where: ['attn', 'mlp'],
  },
  takes: { ...TAKES, init: ['glorotUniform', 'glorotNormal'], reads: ['answer', 'sum'] },
  check: (site, c) => {
    checkBottleneck('compacter', { ...c, init: 'bert' });
    for (const name of ['n', 'rank'] as const) wholeNumber('compacter', name, c[name]);
    if (!(c.std > 0)) throw new RangeError(`compacter: std ${c.std} must be more than 0, or nothing but biases could ever learn`);
    const d = site.dim('width');
    for (const [what, size] of Object.entries({ width: d, bottleneck: widthOf(c, d) }))
      if (size % c.n)
        throw new RangeError(
          `compacter: n ${c.n} at ${site.path} must divide the ${what} ${size}; choose another n, or set bottleneck to a multiple of it`,
        );
  },
  shared: (_, { n, std }, r) => param(r.normal(n ** 3, std), [n, n, n]),
  init: (site, c, r, { shared: A }) => {
    const [n, k, d] = [c.n, c.rank, site.dim('width')];
    const m = widthOf(c, d);
    const make = (name: string, rows: number, cols: number): Tensor => glorot(n, rows, cols, c.init, r.split(name));
    return {
      train: {
        A,
        ...{ downS: make('downS', d / n, k), downT: make('downT', k, m / n), downBias: param(new Float32Array(m), [m], { decay: false }) },
        ...{ upS: make('upS', m / n, k), upT: make('upT', k, d / n), upBias: param(new Float32Array(d), [d], { decay: false }) },
      },
    };
  },
  around: (call, p, c, site) => (x, ctx) => {
    const h = call(x, ctx); // [B, T, d]
    const z = c.reads === 'answer' ? h : reading(h, ctx, 'compacter', site.path);
    const inner = activations[c.activation](z.matmul(phm(p.A, p.downS, p.downT)).add(p.downBias)); // [B, T, m]
    return h.add(inner.matmul(phm(p.A, p.upS, p.upT)).add(p.upBias));
  },
  count: (sites, c) => {
    const of = (d: number, m: number): number => 2 * c.rank * (d + m) + m + d;
    const train = sites.reduce((n, s) => n + of(s.dim('width'), widthOf(c, s.dim('width'))), c.n ** 3);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});

/** Compacter after the feed-forward sublayer only (AdapterHub's reads the sum there: `reads: 'sum'`). Count: n³ + L(2k(d + m) + m + d). */
export const compacterPlusPlus = (options: Options<CompacterConfig> = {}): Transform =>
  hybrid('compacter++', compacter({ where: 'mlp', ...options }));
