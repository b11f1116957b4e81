// The parallel adapter: a bottleneck beside a sublayer, reading what the sublayer reads.
//   y = sublayer(x) + s·(W_up σ(W_down x + b_down) + b_up)
// He et al. 2022, arXiv 2110.04366, §4.6 (scaled parallel adapter).
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import {
  ADAPTER,
  type Bottleneck,
  type BottleneckConfig,
  type BottleneckInit,
  checkBottleneck,
  newBottleneck,
  sizeOf,
  throughBottleneck,
} from './bottleneck.ts';
import { streamOf } from './residualStream.ts';

export interface ParallelAdapterConfig extends BottleneckConfig {
  readonly scale: number | 'learned' | 'channels'; // s: fixed, one trained number, or one per channel (both start at 1)
  readonly init: BottleneckInit;
  readonly input: 'sublayer' | 'stream'; // what it reads: x, or the residual stream x was normalised from (they differ in pre-norm networks)
}
/** Trained numbers in s. */
const scales = ({ scale }: ParallelAdapterConfig, d: number): number => (scale === 'channels' ? d : scale === 'learned' ? 1 : 0);

/**
 * On the feed-forward sublayer, where the paper found it best. In a pre-norm network x is what the sublayer gets, after the norm;
 * AdapterHub reads the stream before it there (`input: 'stream'`).
 * Defaults as AdapterHub's `par_bn`: m = d/2, ReLU, s = 4; the authors' GLUE runs have m = 16, s = 2.
 * Count: 2md + m + d at each place, and the trained numbers in s. Starts as the base (W_up = 0) unless `init` says otherwise.
 */
export const parallelAdapter = defineMethod<'branch', ParallelAdapterConfig, Bottleneck & { readonly s?: Tensor }>({
  name: 'parallelAdapter',
  family: 'additive',
  paper: 'arXiv:2110.04366',
  at: 'branch',
  defaults: { bottleneck: null, reduction: 2, activation: 'relu', scale: 4, init: 'zero', input: 'sublayer', where: 'mlp' },
  takes: { ...ADAPTER, scale: ['learned', 'channels', Number], input: ['sublayer', 'stream'] },
  check: (_, c) => checkBottleneck('parallelAdapter', c),
  init: (site, c, r) => {
    const d = site.dim('width');
    const n = scales(c, d);
    return {
      train: {
        ...newBottleneck(c, d, c.init, r),
        ...(n > 0 ? { s: param(new Float32Array(n).fill(1), [n], { decay: false }) } : {}),
      },
    };
  },
  around: (call, p, c, site) => (x, ctx) => {
    const read = c.input === 'stream' ? streamOf(ctx, 'parallelAdapter', site.path) : x;
    return call(x, ctx).add(throughBottleneck(read, p, c.activation).mul(p.s ?? Number(c.scale)));
  },
  count: (sites, c) => {
    const train = sites.reduce((n, s) => n + sizeOf(c, s.dim('width')) + scales(c, s.dim('width')), 0);
    return { train, stored: train };
  },
  startsAsBase: (c) => (c.init === 'zero' ? 'close' : 'no'), // adds an exact zero: equal, except that −0 may become 0
});
