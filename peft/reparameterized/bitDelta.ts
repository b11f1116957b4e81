// BitDelta: of the difference that full fine-tuning has made to a weight only the signs are kept, and one trained scale.
//   y = W x + b + α·S x,   S = ±1 by the sign of Δ = W_tuned − W (0 counts as +),   α = mean |Δ|, which makes ‖Δ − α S‖ least; then trained
// Liu et al. 2024, arXiv 2402.10193, §3; where, signs and start as in the authors' code. Tuning is the caller's, or has been done (bitDeltaModel.ts).

import { type Shape, size } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';
import { leaf, param } from '../../core/tensor.ts';
import { bytesFor, packBits, unpackedBits } from '../../quant/bits.ts';
import { inBlocks } from '../../quant/quantize.ts';
import { defineMethod } from '../attach.ts';
import { drift } from '../selective/priming.ts';
import { weightsOf } from '../sensitivity.ts';

type OneBit = { alpha: Tensor; bits: Tensor }; // [1]; the signs in bytes, 1 for +
/** S [out, in] */
const signs = ({ bits }: OneBit, shape: Shape): Tensor =>
  unpackedBits(bits, 1, size(shape))
    .mul(2)
    .sub(1)
    .reshape(...shape);

/**
 * All linear layers of the blocks. `prepare(model, { engine, train })`: `train` gets the model with a trained difference on each weight and
 * answers it trained; the rest of the model stays as it was. Then only the scales are trained, in the paper to match the tuned model's logits.
 * Count: one scale for each layer; stored besides: a bit for each weight, in bytes.
 */
export const bitDelta = defineMethod<'linear', object, OneBit, null, ReadonlyMap<string, Float64Array>>({
  name: 'bitDelta',
  family: 'reparameterized',
  paper: 'arXiv:2402.10193',
  at: 'linear',
  defaults: { where: inBlocks },
  prepare: async (sites, _, env) => {
    const moved = await drift('bitDelta', weightsOf('bitDelta', sites), env);
    return new Map(sites.map((s, k) => [s.path, moved[k]!]));
  },
  init: ({ path }, _c, _r, { prepared }) => {
    const delta = prepared.get(path)!;
    const mean = delta.reduce((sum, v) => sum + Math.abs(v), 0) / delta.length;
    return {
      train: { alpha: param([mean], [1], { decay: false }) },
      fixed: {
        bits: leaf(
          packBits(
            Uint8Array.from(delta, (v) => (v < 0 ? 0 : 1)),
            1,
          ),
          [bytesFor(delta.length, 1)],
        ),
      },
    };
  },
  around:
    (call, p, _, { shape }) =>
    (x, ctx) =>
      call(x, ctx).add(x.matmul(signs(p, shape).T).mul(p.alpha)),
  fold: ({ weight, bias }, p) => ({ weight: weight.add(signs(p, weight.shape).mul(p.alpha)), bias }),
  count: (sites) => ({ train: sites.length, stored: sites.reduce((n, s) => n + 1 + bytesFor(size(s.shape), 1), 0) }),
  startsAsBase: () => 'no',
});
