// X-LoRA's MLP: from the features of the first pass to λ, a number for each token, layer and expert.
import { dropout as drop, softmax } from '../../core/ops/fused.ts';
import { relu } from '../../core/ops/map.ts';
import type { Rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import type { Site } from '../site.ts';
import type { Xlora, XloraConfig } from './xlora.ts';

/** Widths of the MLP's layers, input first. */
const widths = (d: number, layers: number, c: XloraConfig): number[] => [
  d,
  ...Array.from({ length: c.depth - 1 }, () => c.hidden),
  c.experts.length * (c.layerwise ? layers : 1),
];
/** Weights and biases, as PyTorch starts them: U(±1/√in). `d` features in, λ for `layers` layers out. */
export function newMlp(d: number, layers: number, c: XloraConfig, r: Rng): Record<'weights' | 'biases', Tensor[]> {
  const n = widths(d, layers, c);
  const draw = (k: number, what: string, size: number): Float32Array =>
    r.split(`${what} ${k}`).uniform(size, -1 / Math.sqrt(n[k]!), 1 / Math.sqrt(n[k]!));
  return {
    weights: n.slice(1).map((to, k) => param(draw(k, 'weight', to * n[k]!), [to, n[k]!])),
    biases: n.slice(1).map((to, k) => param(draw(k, 'bias', to), [to], { decay: false })),
  };
}
/** How many numbers those are: written out, because a file may say any depth. */
export function mlpSize(d: number, layers: number, { depth, hidden, layerwise, experts }: XloraConfig): number {
  const last = experts.length * (layerwise ? layers : 1);
  return depth === 1 ? (d + 1) * last : (d + 1) * hidden + (depth - 2) * (hidden + 1) * hidden + (hidden + 1) * last;
}

/** λ [B, T, layers or 1, E] from h [B, T, d]. */
export function scalings(h: Tensor, { weights, biases }: Xlora, c: XloraConfig, { field }: Site<'trunk'>, ctx: Context): Tensor {
  const logits = weights.reduce((x, w, k) => {
    const y = x.matmul(w.T).add(biases[k]!);
    if (k === weights.length - 1) return y;
    const mask = c.dropout === 0 ? null : ctx.draw.bernoulli(`${field} ${k}`, y.shape, 1 - c.dropout);
    return mask === null ? relu(y) : drop(relu(y), mask, 1 - c.dropout);
  }, h);
  const each = logits.reshape(...h.shape.slice(0, -1), -1, c.experts.length);
  return c.softmax ? softmax(each.mul(1 / c.temperature)) : each;
}
