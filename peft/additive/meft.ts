// MEFT: the frozen blocks as a reversible network of two streams, each block with one adapter within it and one beside it.
//   x₁ = x₂ = h;   each block: y₁ = λ x₁ + F(x₂),  y₂ = β x₂ + G(y₁),  then (x₁, x₂) = (y₂, y₁);   answer (x₁ + x₂)/2
//   form 1: F = the block, G = adapter;   form 2: F = adapter, G = the block;   the block has an adapter beside its feed-forward
//   so x₂ = (y₂ − G(y₁))/β and x₁ = (y₁ − F(x₂))/λ: what enters a block can be computed from what leaves it
// Liao et al. 2023, arXiv 2306.00477, §3.3, as in the authors' code.
import type { Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import { BASE, type Layer, layer } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import type { Site } from '../site.ts';
import { beside } from './beside.ts';
import { type BottleneckConfig, checkBottleneck, listOf, newBottleneck, sizeOf, TAKES, throughKth } from './bottleneck.ts';
import { both, coupledBlock, entered, type Streams, type StreamsConfig } from './meftStreams.ts';

export interface MeftConfig extends BottleneckConfig, StreamsConfig {
  readonly form: 1 | 2; // F is the block, or G is
}
type Adapters = ReturnType<typeof listOf>; // beside feed-forward 0, beside block 0, …

const blocks = (site: Site<'trunk'>): readonly Site<'block'>[] => site.within('block');

/**
 * Defaults as the authors' run of form 1: λ = 0.1, β = 1, m = 8, GELU, all weights N(0, 0.02²); their form 2 has λ = 1, β = 0.1. It stays near
 * the base, not at it. Their third form (F the attention, G the feed-forward) needs two streams within a block and is not here.
 * The authors reverse all blocks, `keeps: 'last'`: what backward holds does not grow with depth, but each division by λ or β multiplies what
 * rounding has done, and gradients in float32 are wrong beyond four or so blocks (decision 300 has numbers). So `streams` by default.
 * Count: 2L(2md + m + d).
 */
export const meft = defineMethod<'trunk', MeftConfig, Adapters>({
  name: 'meft',
  family: 'additive',
  paper: 'arXiv:2306.00477',
  at: 'trunk',
  defaults: { bottleneck: 8, reduction: 16, activation: 'gelu', form: 1, lambda: 0.1, beta: 1, keeps: 'streams', where: 'trunk' },
  takes: { ...TAKES, keeps: ['last', 'streams', 'all'], form: [1, 2] },
  check: (site, c) => {
    checkBottleneck('meft', { ...c, init: 'bert' });
    for (const name of ['lambda', 'beta'] as const)
      if (!(c[name] > 0)) throw new RangeError(`meft: ${name} ${c[name]} must be above 0, or a block could not be reversed`);
    for (const b of blocks(site)) b.within('branch', 'mlp');
  },
  init: (site, c, r) => ({
    train: listOf(
      blocks(site).flatMap((b) => ['inside', 'beside'].map((n) => newBottleneck(c, site.dim('width'), 'bert', r.split(b.path).split(n)))),
    ),
  }),
  around: (call, p, c, site) => (h, ctx) => {
    const adapter = (k: number) => (x: Tensor) => throughKth(x, p, k, c.activation);
    const paths = blocks(site).map((b) => b.path);
    let last: Streams | null = null;
    const coupled = substitute(
      call,
      'block',
      (l, path) => {
        const k = paths.indexOf(path);
        const block = substitute(l, 'branch', (b, at) => (at.endsWith('.mlp') ? beside(b, adapter(2 * k)) : null), path) as Layer<'block'>;
        return layer('block', { [BASE]: block }, ({ [BASE]: block }) => (x, at) => {
          const pair = (c2: Context): [(t: Tensor) => Tensor, (t: Tensor) => Tensor] => {
            const own = (t: Tensor): Tensor => block(t, c2);
            return c.form === 1 ? [own, adapter(2 * k + 1)] : [adapter(2 * k + 1), own];
          };
          const from = entered(k === 0 ? null : last, x, at); // k = 0: a method beneath may walk the blocks twice (IDPG)
          const s = coupledBlock(from, pair(at), pair({ ...at, aux: () => {} }), c);
          const [y2, y1] = both(s);
          last = { s, y1 };
          return k === paths.length - 1 ? y1.add(y2).mul(0.5) : y1;
        });
      },
      site.path,
    );
    return coupled(h, ctx);
  },
  count: (sites, c) => {
    const train = sites.reduce((n, s) => n + 2 * blocks(s).length * sizeOf(c, s.dim('width')), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});
