// Ladder Side Tuning: a small transformer beside the frozen one reads its hidden states, and answers in its place.
//   s₀ = D₀ h₀;   s_i = Side_i( μ_i s_{i−1} + (1 − μ_i) D_i sg(h_i) ),   μ_i = sigmoid(α_i / T);   y = U norm(s_L)
// h₀ enters the first block and h_i leaves block i; sg stops gradients, so that backward never enters the backbone and nothing of it is
// kept. Side_i is a block of the backbone's make with every size divided by ρ. Sung et al. 2022, arXiv 2206.06522, §3.
import { layerNorm, rmsNorm } from '../../core/ops/fused.ts';
import { add, mul, sigmoid, stopGradient, sub } from '../../core/ops/map.ts';
import type { Rng } from '../../core/rng.ts';
import { named } from '../../core/scope.ts';
import { type Shape, size } from '../../core/shape.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { fusedAttention, type Rope, selfAttention } from '../../nn/attention.ts';
import { postNormBlock, preNormBlock } from '../../nn/block.ts';
import type { Context } from '../../nn/context.ts';
import { type AnyLayer, BASE, type Field, isLayer, type Kind, type Layer, layer } from '../../nn/layer.ts';
import { linear } from '../../nn/linear.ts';
import { type Activation, gatedMlp, mlp } from '../../nn/mlp.ts';
import { layerNorm as layerNormLayer, rmsNorm as rmsNormLayer } from '../../nn/norm.ts';
import { substitute } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import { bare, type Site } from '../site.ts';

export interface LstConfig {
  readonly reduction: number; // ρ
  readonly temperature: number; // T of the gates
  readonly bias: boolean; // of D_i and U
  readonly blocks: readonly number[] | null; // backbone blocks that have a side block; null: all (the paper drops some)
}
type Ladder = {
  readonly first: readonly Tensor[]; // D₀, and its bias
  readonly down: readonly Tensor[]; // D_i, each followed by its bias
  readonly alpha: readonly Tensor[];
  readonly side: readonly Tensor[]; // all blocks' tensors, in the order of `parts`
  readonly norm: readonly Tensor[];
  readonly up: readonly Tensor[]; // U, and its bias
};

/** The make of a backbone block, its sizes divided by ρ. */
interface Make {
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
  if (!isLayer(found)) throw new Error(`lst: a ${l.kind} of this model has no ${name}; it needs blocks with norm1, attn and mlp`);
  return bare(found);
};
function makeOf(site: Site<'trunk'>, { reduction }: LstConfig): Make {
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
const which = (site: Site<'trunk'>, c: LstConfig): readonly number[] => c.blocks ?? site.within('block').map((_, k) => k);

type Part = readonly [shape: Shape, start: 'one' | 'zero' | 'normal'];
const normParts = (m: Make): Part[] =>
  m.rms
    ? [[[m.d], 'one']]
    : [
        [[m.d], 'one'],
        [[m.d], 'zero'],
      ];
const linearParts = (out: number, into: number, bias: boolean): Part[] => [
  [[out, into], 'normal'],
  ...(bias ? [[[out], 'zero'] as Part] : []),
];
/** A side block's tensors: norms, projections (q, k and v in one where they are of one size), feed-forward. */
function parts(m: Make): Part[] {
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
function blockOf(m: Make, tensors: readonly Tensor[]): Layer<'block'> {
  const left = [...tensors];
  const next = (): Tensor => left.shift()!;
  const norm = (): Layer<'norm'> => (m.rms ? rmsNormLayer(next(), m.eps) : layerNormLayer(next(), next(), m.eps));
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
const made = (all: readonly Part[], r: Rng, std: number): Tensor[] =>
  all.map(([shape, start], k) => {
    const n = size(shape);
    const numbers = start === 'normal' ? r.split(k).normal(n, std) : new Float32Array(n).fill(start === 'one' ? 1 : 0);
    return param(numbers, shape, { decay: shape.length > 1 });
  });
const scalars = (all: readonly Part[]): number => all.reduce((n, [shape]) => n + size(shape), 0);
const through = (x: Tensor, w: readonly Tensor[]): Tensor => (w[1] === undefined ? x.matmul(w[0]!.T) : x.matmul(w[0]!.T).add(w[1]));

/**
 * Defaults ρ = 8, T = 0.1, α_i = 0 (so μ_i = ½) as in the authors' code; D_i and U ~ N(0, 0.01²) as there, blocks N(0, 0.02²). The authors
 * start the side blocks from the backbone's weights, pruned; that is not here. The answer is the side network's alone, so it never
 * starts as the base. Count: per side block its own tensors (about 12 (d/ρ)²), d²/ρ (+ d/ρ) for D_i and 1 for α_i; besides D₀, U and a norm.
 */
export const lst = defineMethod<'trunk', LstConfig, Ladder>({
  name: 'lst',
  family: 'additive',
  paper: 'arXiv:2206.06522',
  at: 'trunk',
  defaults: { reduction: 8, temperature: 0.1, bias: true, blocks: null, where: 'trunk' },
  check: (site, c) => {
    wholeNumber('lst', 'reduction', c.reduction);
    if (!(c.temperature > 0)) throw new RangeError(`lst: temperature ${c.temperature} must be above 0`);
    const all = site.within('block').length;
    const wrong = c.blocks?.find((k, i) => !Number.isInteger(k) || k < 0 || k >= all || c.blocks!.indexOf(k) !== i);
    if (wrong !== undefined || c.blocks?.length === 0)
      throw new RangeError(`lst: blocks ${c.blocks} must name different blocks of 0 … ${all - 1}, at least one`);
    const m = makeOf(site, c);
    const head = m.d / m.heads;
    if (!Number.isInteger(head) || !Number.isInteger(m.inner) || (m.rope !== null && head % 2))
      throw new RangeError(
        `lst: at ${site.path} a reduction of ${c.reduction} makes width ${m.d} on ${m.heads} heads and feed-forward ${m.inner}; heads must get a whole${m.rope === null ? '' : ', even'} width each, so choose a smaller reduction`,
      );
  },
  init: (site, c, r) => {
    const m = makeOf(site, c);
    const d = site.dim('width');
    const own = which(site, c);
    const each = (name: string, f: (r: Rng) => Tensor[]): Tensor[] => own.flatMap((k) => f(r.split(name).split(k)));
    return {
      train: {
        first: made(linearParts(m.d, d, c.bias), r.split('first'), 0.01),
        down: each('down', (own) => made(linearParts(m.d, d, c.bias), own, 0.01)),
        alpha: own.map(() => param([0], [1], { decay: false })),
        side: each('side', (own) => made(parts(m), own, 0.02)),
        norm: made(normParts(m), r, 0),
        up: made(linearParts(d, m.d, c.bias), r.split('up'), 0.01),
      },
    };
  },
  around: (call, p, c, site) => (h, ctx) => {
    const m = makeOf(site, c);
    const seen: { into: Tensor; out: Tensor; ctx: Context }[] = [];
    const listening = substitute(call, 'block', (l) =>
      layer('block', { [BASE]: l }, () => (x, at) => {
        const out = l(x, at);
        seen.push({ into: x, out, ctx: at });
        return out;
      }),
    );
    listening(h, ctx); // its answer is not used, and so never computed
    const [perBlock, perDown] = [parts(m).length, c.bias ? 2 : 1];
    let s = through(stopGradient(seen[0]!.into), p.first); // [B, T, d/ρ]
    for (const [i, k] of which(site, c).entries()) {
      const mu = sigmoid(p.alpha[i]!.mul(1 / c.temperature));
      const h = through(stopGradient(seen[k]!.out), p.down.slice(i * perDown, (i + 1) * perDown));
      const mixed = add(mul(mu, s), mul(sub(1, mu), h));
      s = named(`${site.field}.blocks.${k}`, () => blockOf(m, p.side.slice(i * perBlock, (i + 1) * perBlock))(mixed, seen[k]!.ctx));
    }
    const normed = m.rms ? rmsNorm(s, p.norm[0]!, m.eps) : layerNorm(s, p.norm[0]!, p.norm[1]!, m.eps);
    return through(normed.slice(1, -h.shape[1]!), p.up); // without the tokens of a prompt beneath
  },
  count: (sites, c) => {
    const train = sites.reduce((n, site) => {
      const [m, d] = [makeOf(site, c), site.dim('width')];
      const sampler = scalars(linearParts(m.d, d, c.bias));
      const each = scalars(parts(m)) + sampler + 1;
      return n + which(site, c).length * each + sampler + scalars(normParts(m)) + scalars(linearParts(d, m.d, c.bias));
    }, 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});
