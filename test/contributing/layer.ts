// A linear layer with a gate of its own: y = (W x + b) ⊙ σ(G x + g).
import { mul, sigmoid } from '../../core/ops/map.ts';
import type { Rng } from '../../core/rng.ts';
import { type Layer, layer } from '../../nn/layer.ts';
import { newLinear } from '../../nn/linear.ts';

/** [B, …, in] → [B, …, out]. The kind is what methods see: a branch, in which they find the two linear layers. */
export const gatedLinear = (value: Layer<'linear'>, gate: Layer<'linear'>): Layer<'branch'> =>
  layer(
    'branch',
    { value, gate }, // everything it needs is a field: that is how paths, freezing, attaching and saving find it
    (f) => (x, ctx) => mul(f.value(x, ctx), sigmoid(f.gate(x, ctx))), // use `f`, never the arguments above: fields are replaced
  );

export const newGatedLinear = (from: number, to: number, r: Rng): Layer<'branch'> =>
  gatedLinear(newLinear(from, to, r.split('value')), newLinear(from, to, r.split('gate')));
