// The feed-forward branch: up, activation, down; or gated, as in LLaMA.
import { gelu, geluTanh, mul, relu, silu } from '../core/ops/map.ts';
import type { Rng } from '../core/rng.ts';
import type { Tensor } from '../core/tensor.ts';
import { type Layer, layer } from './layer.ts';
import { newLinear } from './linear.ts';

export const ACTIVATIONS = ['gelu', 'geluTanh', 'relu', 'silu'] as const;
export type Activation = (typeof ACTIVATIONS)[number];
export const activations: Readonly<Record<Activation, (x: Tensor) => Tensor>> = { gelu, geluTanh, relu, silu };

/** down(σ(up(x))) */
export const mlp = (up: Layer<'linear'>, down: Layer<'linear'>, activation: Activation, width: number): Layer<'branch'> =>
  layer('branch', { up, down, activation, width }, (f) => (x, ctx) => f.down(activations[f.activation](f.up(x, ctx)), ctx));

/** down(σ(gate(x)) ⊙ up(x))  (Shazeer 2020, arXiv 2002.05202) */
export const gatedMlp = (
  gate: Layer<'linear'>,
  up: Layer<'linear'>,
  down: Layer<'linear'>,
  activation: Activation,
  width: number,
): Layer<'branch'> =>
  layer(
    'branch',
    { gate, up, down, activation, width },
    (f) => (x, ctx) => f.down(mul(activations[f.activation](f.gate(x, ctx)), f.up(x, ctx)), ctx),
  );

export function newMlp(
  width: number,
  inner: number,
  r: Rng,
  { activation, gated, bias, std }: { activation: Activation; gated: boolean; bias: boolean; std: number },
): Layer<'branch'> {
  const up = newLinear(width, inner, r.split('up'), { bias });
  const down = newLinear(inner, width, r.split('down'), { bias, std });
  return gated
    ? gatedMlp(newLinear(width, inner, r.split('gate'), { bias }), up, down, activation, width)
    : mlp(up, down, activation, width);
}
