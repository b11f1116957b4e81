// A packed base as a part of a composition: the linear layers it picks keep their weights in few bits, and nothing of them is trained.
//   y = x·deq(q(W))ᵀ + b
// As QLoRA does it (Dettmers et al. 2023, arXiv 2305.14314, §3). Unlike `quantize`, which it equals number for number, it can come off again: the old
// weights stay reachable, so it saves no memory by itself. Where the network has been packed by `quantize` before, it does nothing.
import { isHalves } from '../../core/halves.ts';
import { type AnyLayer, isLayer } from '../../nn/layer.ts';
import { isPacked } from '../../nn/linear.ts';
import { doubleQuant } from '../../quant/doubleQuant.ts';
import { nf4 } from '../../quant/nf4.ts';
import { inBlocks, type Scheme } from '../../quant/quantize.ts';
import { defineMethod } from '../attach.ts';
import { replaceable } from '../check.ts';
import type { Site } from '../site.ts';

export interface PackedConfig {
  readonly scheme: Scheme; // NF4 with double quantisation
}
function packedBefore(site: Site<'linear'>): boolean {
  const { attached, fields } = site.layer as AnyLayer;
  return attached === null && isLayer(fields.weight) && isPacked(fields.weight) && !isHalves(site.weight());
}

/** All linear layers of the blocks. Count: none trained, and none stored besides what is packed. */
export const packed = defineMethod<'linear', PackedConfig, Record<never, never>>({
  name: 'packed',
  family: 'reparameterized',
  paper: 'arXiv:2305.14314',
  at: 'linear',
  defaults: { scheme: nf4({ scales: doubleQuant() }), where: inBlocks },
  readsWeight: true,
  check: (site) => {
    if (!packedBefore(site)) replaceable(site.layer);
  },
  init: (site, { scheme }, _r, { weight }) => (packedBefore(site) ? null : { train: {}, base: scheme.pack(weight(), site.shape) }),
  around: (call) => call,
  fold: (w) => w,
  count: () => ({ train: 0, stored: 0 }),
  startsAsBase: () => 'no', // the base up to rounding
});
