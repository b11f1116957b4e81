// A small transformer block of the make of a frozen one: its tensors as a list, for methods that train a network beside the network.
import { layerNorm as layerNormed, rmsNorm as rmsNormed } from '../../core/ops/fused.ts';
import type { Rng } from '../../core/rng.ts';
import { type Shape, size } from '../../core/shape.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { fusedAttention, selfAttention } from '../../nn/attention.ts';
import { postNormBlock, preNormBlock } from '../../nn/block.ts';
import type { Layer } from '../../nn/layer.ts';
import { linear } from '../../nn/linear.ts';
import { gatedMlp, mlp } from '../../nn/mlp.ts';
import { layerNorm, rmsNorm } from '../../nn/norm.ts';
import type { Make } from './sideMake.ts';

export type Part = readonly [shape: Shape, start: 'one' | 'zero' | 'normal'];

export const normParts = (m: Make): Part[] =>
  m.rms
    ? [[[m.d], 'one']]
    : [
        [[m.d], 'one'],
        [[m.d], 'zero'],
      ];

export const linearParts = (out: number, into: number, bias: boolean): Part[] => [
  [[out, into], 'normal'],
  ...(bias ? [[[out], 'zero'] as Part] : []),
];

/** A side block's tensors: norms, projections (q, k and v in one where they are of one size), feed-forward. */
export function parts(m: Make): Part[] {
  const kv = (m.d / m.heads) * m.kvHeads;
  const qkv = m.kvHeads === m.heads ? linearParts(3 * m.d, m.d, m.bias) : [m.d, kv, kv].flatMap((n) => linearParts(n, m.d, m.bias));
  const feed = [
    ...(m.gated ? linearParts(m.inner, m.d, m.bias) : []),
    ...linearParts(m.inner, m.d, m.bias),
    ...linearParts(m.d, m.inner, m.bias),
  ];
  return [...normParts(m), ...normParts(m), ...qkv, ...linearParts(m.d, m.d, m.bias), ...feed];
}

/** The same tensors as a block. */
export function blockOf(m: Make, tensors: readonly Tensor[]): Layer<'block'> {
  const left = [...tensors];
  const next = (): Tensor => left.shift()!;
  const norm = (): Layer<'norm'> => (m.rms ? rmsNorm(next(), m.eps) : layerNorm(next(), next(), m.eps));
  const project = (): Layer<'linear'> => linear(next(), m.bias ? next() : null);
  const sizes = { width: m.d, heads: m.heads, kvHeads: m.kvHeads, rope: m.rope };
  const attention = (): Layer<'branch'> =>
    m.kvHeads === m.heads
      ? fusedAttention(project(), project(), sizes)
      : selfAttention({ q: project(), k: project(), v: project(), o: project() }, sizes);
  const feed = (): Layer<'branch'> =>
    m.gated ? gatedMlp(project(), project(), project(), m.activation, m.d) : mlp(project(), project(), m.activation, m.d);
  const [norm1, norm2] = [norm(), norm()];
  const all = { norm1, norm2, attn: attention(), mlp: feed(), width: m.d };
  return m.post ? postNormBlock(all) : preNormBlock(all);
}

/** x W.T + b, where b may be left out.  [.., in] → [.., out] */
export const through = (x: Tensor, [w, b]: readonly Tensor[]): Tensor => (b === undefined ? x.matmul(w!.T) : x.matmul(w!.T).add(b));

/** The norm behind the last side block. */
export const normed = (m: Make, x: Tensor, [gain, shift]: readonly Tensor[]): Tensor =>
  m.rms ? rmsNormed(x, gain!, m.eps) : layerNormed(x, gain!, shift!, m.eps);

/** Fresh parameters: matrices N(0, std²), gains 1, biases 0. */
export const made = (all: readonly Part[], r: Rng, std: number): Tensor[] =>
  all.map(([shape, start], k) => {
    const n = size(shape);
    const numbers = start === 'normal' ? r.split(k).normal(n, std) : new Float32Array(n).fill(start === 'one' ? 1 : 0);
    return param(numbers, shape, { decay: shape.length > 1 });
  });

export const scalars = (all: readonly Part[]): number => all.reduce((n, [shape]) => n + size(shape), 0);
