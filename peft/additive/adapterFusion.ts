// AdapterFusion: several trained adapters, frozen, mixed at every token by an attention that is trained on the target task.
//   h' = h + Σ_n α_n W_v u_n,   α = softmax_n((W_q z + b_q)·(W_k u_n + b_k) / T),   u_n = the answer of adapter n to z, without residual
// Pfeiffer et al. 2021, arXiv 2005.00247, §3.2. h and z are those of the adapters (pfeiffer.ts). No 1/√d; W_v has no bias.
// A place's start: fusionStart.ts.
import { dropout, softmax } from '../../core/ops/fused.ts';
import { iota, oneHot } from '../../core/ops/index.ts';
import { max, square } from '../../core/ops/map.ts';
import { type Param, paramOf, type Tensor } from '../../core/tensor.ts';
import { type Configurable, defineMethod } from '../attach.ts';
import { dropoutFits, wholeNumber } from '../check.ts';
import { checkOptions } from '../options.ts';
import { TAKES } from './bottleneck.ts';
import { type AdapterFusionConfig, type Fusion, type Knowledge, scored } from './fusionAttention.ts';
import { newFusion } from './fusionStart.ts';
import { reading } from './pfeiffer.ts';

/** The method over given adapters by path (and a fusion layer, where that exists too); without them they are placeholders, to be filled from a file. */
export const fusionOver = (known: ReadonlyMap<string, Knowledge & Partial<Fusion>> | null): Configurable<AdapterFusionConfig> =>
  defineMethod<'branch', AdapterFusionConfig, Fusion>({
    name: 'adapterFusion',
    family: 'additive',
    paper: 'arXiv:2005.00247',
    at: 'branch',
    defaults: {
      adapters: Array.from({ length: 3 }, () => ({ bottleneck: 48, activation: 'relu' as const })),
      ...{ value: true, regularization: 0.01, temperature: false, dropout: 0 },
      where: 'mlp',
    },
    check: (site, c) => {
      if (c.adapters.length === 0)
        throw new RangeError(`adapterFusion at ${site.path}: there is nothing to fuse; give at least one adapter`);
      for (const [k, a] of c.adapters.entries()) {
        checkOptions(`adapterFusion: adapters[${k}]`, { bottleneck: 48, activation: 'relu' }, TAKES, a);
        wholeNumber('adapterFusion', 'bottleneck', a.bottleneck);
      }
      dropoutFits('adapterFusion', c.dropout);
      if (!(c.regularization >= 0)) throw new RangeError(`adapterFusion: regularization ${c.regularization} must be 0 or more`);
    },
    init: (site, c, r) => newFusion(known?.get(site.path), site.dim('width'), c, r),
    around: (call, p, c, site) => (x, ctx) => {
      const h = call(x, ctx); // [B, T, d]
      const [b, t, d] = h.shape as readonly [number, number, number];
      const { u, scores } = scored(p, reading(h, ctx, 'adapterFusion', site.path), c);
      const mask = c.dropout === 0 ? null : ctx.draw.bernoulli(site.field, scores.shape, 1 - c.dropout);
      const alpha = softmax(mask === null ? scores : dropout(scores, mask, 1 - c.dropout)); // [B, T, N]
      const v = p.value === undefined ? u : u.matmul(p.value.T); // [B, T, N, d]
      return h.add(alpha.reshape(b, t, 1, -1).matmul(v).reshape(b, t, d));
    },
    hooks: ({ value, temperature }, c) => ({
      ...(value === undefined || c.regularization === 0
        ? {}
        : {
            penalty: () =>
              square(value.sub(oneHot(iota(value.shape[0]!), value.shape[0]!)))
                .sum()
                .mul(c.regularization),
          }),
      ...(temperature === undefined
        ? {}
        : { afterStep: () => new Map<Param, Tensor>([[paramOf(temperature)!, max(temperature.sub(0.05), 1)]]) }),
    }),
    finish: ({ temperature: T, ...p }) => (T === undefined ? p : { ...p, query: p.query.div(T), queryBias: p.queryBias.div(T) }),
    count: (sites, c) => {
      const train = sites.reduce((n, s) => n + (c.value ? 3 : 2) * s.dim('width') ** 2 + 2 * s.dim('width'), 0);
      const held = (d: number): number => c.adapters.reduce((n, { bottleneck: m }) => n + 2 * m * d + m + d, 0);
      return { train, stored: train + sites.reduce((n, s) => n + held(s.dim('width')), 0) };
    },
    startsAsBase: () => 'no',
    idle: { keyBias: 'adds the same number to the scores of all adapters, which the softmax over adapters cancels' },
  });

/**
 * The fusion layer alone, its adapters to be filled from a saved file; `fused(models)` (adapterFusionStages.ts) makes one over adapters at hand.
 * W_q, W_k ~ N(0, 0.02²), W_v = I with 1e-6 elsewhere: it starts as nearly the mean of the adapters. The authors' library lowers T at
 * every forward pass, here it is every step; the dropout it takes from the network's attention is 0 here. Learning rate 5e-5.
 * Count: 3d² + 2d for each block, 2d² + 2d without W_v. The adapters are frozen, and stored with it.
 */
export const adapterFusion = fusionOver(null);
