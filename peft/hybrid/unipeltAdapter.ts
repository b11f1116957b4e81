// UniPELT on a feed-forward sublayer: an adapter behind a gate that reads what the adapter reads.
//   y = h + g_a·(W_up σ(W_down h + b_down) + b_up), h = mlp(x)
// Mao et al. 2022, arXiv 2110.07577, §3.
import type { Rng } from '../../core/rng.ts';
import type { Calls, Layer } from '../../nn/layer.ts';
import {
  type Bottleneck,
  type BottleneckConfig,
  type BottleneckInit,
  newBottleneck,
  sizeOf,
  throughBottleneck,
} from '../additive/bottleneck.ts';
import { reading } from '../additive/pfeiffer.ts';
import type { Site } from '../site.ts';
import { type Gate, type GateConfig, newGate, opened } from './unipeltGates.ts';

export interface AdapterConfig extends BottleneckConfig, GateConfig {
  readonly init: BottleneckInit; // of the adapter
  readonly reads: 'answer' | 'sum'; // adapter and its gate: h, or the (normalised) sum of h and the stream, as AdapterHub's
}
export type OnFeedForward = Bottleneck & { readonly gate: Gate };

export function newOnFeedForward(site: Site<'branch'>, c: AdapterConfig, r: Rng): OnFeedForward {
  const d = site.dim('width');
  return { ...newBottleneck(c, d, c.init, r), gate: newGate(1, d, r.split('gate')) };
}

export const onFeedForward =
  (call: Layer<'branch'>, p: OnFeedForward, c: AdapterConfig, site: Site<'branch'>): Calls['branch'] =>
  (x, ctx) => {
    const h = call(x, ctx); // [B, T, d]
    const z = c.reads === 'answer' ? h : reading(h, ctx, 'unipelt', site.path);
    return h.add(throughBottleneck(z, p, c.activation).mul(opened(p.gate, z, c)));
  };

/** Count: 2md + m + d for the adapter, d + 1 for its gate. */
export const adapterSize = (s: Site<'branch'>, c: AdapterConfig): number => sizeOf(c, s.dim('width')) + s.dim('width') + 1;
