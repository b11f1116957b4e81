// A weight shown as a layer of its own (so that masks can attach to it), and the linear layer y = x·Wᵀ + b.
import type { Rng } from '../core/rng.ts';
import { param, type Tensor } from '../core/tensor.ts';
import { type AnyLayer, type Layer, layer } from './layer.ts';

/** A tensor as a layer: what it answers is the value in use, methods on it included. */
export const weight = (value: Tensor): Layer<'weight'> => layer('weight', { value }, (f) => () => f.value);
/** Whether a layer is a weight that stands for its numbers by others: codes and scales, or halves. */
export const isPacked = (l: AnyLayer): l is AnyLayer<'weight'> => l.kind === 'weight' && l.attached === null && !('value' in l.fields);

/** y = x·Wᵀ + b; weight [out, in], as in PyTorch. */
export const linear = (w: Tensor, b: Tensor | null = null): Layer<'linear'> =>
  layer('linear', { weight: weight(w), bias: b === null ? null : weight(b) }, (f) => (x, ctx) => {
    const y = x.matmul(f.weight(ctx).T); // [B, …, in] · [in, out]
    return f.bias === null ? y : y.add(f.bias(ctx));
  });

/** A fresh linear layer: W ~ N(0, std²), b = 0. */
export const newLinear = (
  from: number,
  to: number,
  r: Rng,
  { bias = true, std = 0.02 }: { bias?: boolean; std?: number } = {},
): Layer<'linear'> =>
  linear(param(r.normal(from * to, std), [to, from]), bias ? param(new Float32Array(to), [to], { decay: false }) : null);
