// A small transformer block of the make of a frozen one: its tensors as a list, for methods that train a network beside the network.
import type { Rng } from '../../core/rng.ts';
import { type Shape, size } from '../../core/shape.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { fusedAttention, type Rope, selfAttention } from '../../nn/attention.ts';
import { postNormBlock, preNormBlock } from '../../nn/block.ts';
import { type AnyLayer, type Field, isLayer, type Kind, type Layer } from '../../nn/layer.ts';
import { linear } from '../../nn/linear.ts';
import { type Activation, gatedMlp, mlp } from '../../nn/mlp.ts';
import { layerNorm, rmsNorm } from '../../nn/norm.ts';
import { bare, type Site } from '../site.ts';

/** The make of a backbone block, its sizes divided by ρ. */
export interface Make {
  readonly d: number;
  readonly inner: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly rope: Rope | null;
  readonly bias: boolean;
  readonly post: boolean; // norms after the additions
  readonly rms: boolean;
  readonly eps: number;
  readonly activation: Activation;
  readonly gated: boolean;
}
const part = <K extends Kind>(l: AnyLayer<K>, name: string): AnyLayer => {
  const found: Field | undefined = bare(l).fields[name];
  if (!isLayer(found))
    throw new Error(`side block: a ${l.kind} of this model has no ${name}; the method needs blocks with norm1, attn and mlp`);
  return bare(found);
};
export function makeOf(site: Site<'trunk'>, reduction: number): Make {
  const block = site.within('block')[0]!.layer;
  const [attn, feed, norm] = [part(block, 'attn'), part(block, 'mlp'), part(block, 'norm1')];
  const { heads, kvHeads } = part(attn, 'attend').fields as { heads: number; kvHeads: number };
  const up = part(feed, 'up');
  const [inner] = (part(up, 'weight').fields.value as Tensor).shape as readonly [number];
  return {
    d: site.dim('width') / reduction,
    inner: inner / reduction,
    heads,
    kvHeads,
    rope: attn.fields.rope as Rope | null,
    bias: up.fields.bias !== null,
    post: bare(site.layer).fields.norm === null,
    rms: norm.fields.bias === null,
    eps: norm.fields.eps as number,
    activation: feed.fields.activation as Activation,
    gated: feed.fields.gate !== undefined,
  };
}
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
/** Fresh parameters: matrices N(0, std²), gains 1, biases 0. */
export const made = (all: readonly Part[], r: Rng, std: number): Tensor[] =>
  all.map(([shape, start], k) => {
    const n = size(shape);
    const numbers = start === 'normal' ? r.split(k).normal(n, std) : new Float32Array(n).fill(start === 'one' ? 1 : 0);
    return param(numbers, shape, { decay: shape.length > 1 });
  });
export const scalars = (all: readonly Part[]): number => all.reduce((n, [shape]) => n + size(shape), 0);
