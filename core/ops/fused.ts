// Ops with a name of their own in every paper, each given by its reference composition and a short derivative. An engine
// may run one natively; the others run the composition.

import { X } from '../kernel.ts';
import { defineOp, type Ins, type Op } from '../op.ts';
import { broadcast, dim, ShapeError, same, show, size } from '../shape.ts';
import type { Tensor } from '../tensor.ts';
import { iota, oneHot, takeAlong } from './index.ts';
import { add, clamp, cos, div, eq, exp, le, lift, max, mul, ne, neg, rsqrt, sin, sub, where } from './map.ts';
import { matmul } from './matmul.ts';
import { reshape } from './move.ts';
import { logsumexp, mean, sum, sumTo } from './reduce.ts';

/** softmax over the last dimension. dx = y(dy − Σ dy·y) */
const softmaxOp: Op<'x', null> = defineOp<'x'>({
  name: 'softmax',
  inputs: ['x'],
  shape: ({ x }) => x,
  flops: ({ x }) => 5 * size(x),
  kernel: { kind: 'composite', of: ({ x }) => exp(sub(x, logsumexp(x, [-1], true))) },
  vjp: ({ y, dy }) => ({ x: () => softmaxGrad({ y, dy }, null) }),
});
const softmaxGrad: Op<'y' | 'dy', null> = defineOp<'y' | 'dy'>({
  name: 'softmaxGrad',
  inputs: ['y', 'dy'],
  shape: ({ y }) => y,
  flops: ({ y }) => 4 * size(y),
  kernel: { kind: 'composite', of: ({ y, dy }) => mul(y, sub(dy, sum(mul(dy, y), [-1], true))) },
});
export const softmax = (x: Tensor): Tensor => softmaxOp({ x }, null);

/** log softmax over the last dimension. dx = dy − eʸ Σ dy */
const logSoftmaxOp: Op<'x', null> = defineOp<'x'>({
  name: 'logSoftmax',
  inputs: ['x'],
  shape: ({ x }) => x,
  flops: ({ x }) => 5 * size(x),
  kernel: { kind: 'composite', of: ({ x }) => sub(x, logsumexp(x, [-1], true)) },
  vjp: ({ y, dy }) => ({ x: () => sub(dy, mul(exp(y), sum(dy, [-1], true))) }),
});
export const logSoftmax = (x: Tensor): Tensor => logSoftmaxOp({ x }, null);

const oneVector = (what: string, x: readonly number[], g: readonly number[]): void => {
  if (!same(g, x.slice(-1))) throw new ShapeError(`${what}: the gain must be [${dim(x, -1)}], got ${show(g)}`);
};

/** 1/√(var + ε) over the last dimension, and x centred. */
function centred(x: Tensor, eps: number): { c: Tensor; r: Tensor } {
  const c = sub(x, mean(x, [-1], true));
  return { c, r: rsqrt(add(mean(mul(c, c), [-1], true), eps)) };
}
/** x̂ = (x − μ)/√(σ² + ε);  y = g·x̂ + b.  dx = r(dx̂ − mean dx̂ − x̂·mean(dx̂·x̂)), dx̂ = dy·g  (Ba et al. 2016, arXiv 1607.06450) */
const layerNormOp: Op<'x' | 'g' | 'b', { eps: number }> = defineOp<'x' | 'g' | 'b', { eps: number }>({
  name: 'layerNorm',
  inputs: ['x', 'g', 'b'],
  flops: ({ x }) => 8 * size(x),
  shape: ({ x, g, b }) => {
    oneVector('layerNorm', x, g);
    oneVector('layerNorm', x, b);
    return x;
  },
  kernel: {
    kind: 'composite',
    of: ({ x, g, b }, { eps }) => {
      const { c, r } = centred(x, eps);
      return add(mul(mul(c, r), g), b);
    },
  },
  vjp: ({ x, g, b, dy, attrs }) => ({
    x: () => layerNormGrad({ x, g, dy }, attrs),
    g: () => layerNormGain({ x, dy }, attrs),
    b: () => sumTo(dy, b.shape),
  }),
});
const layerNormGrad: Op<'x' | 'g' | 'dy', { eps: number }> = defineOp<'x' | 'g' | 'dy', { eps: number }>({
  name: 'layerNormGrad',
  inputs: ['x', 'g', 'dy'],
  flops: ({ x }) => 12 * size(x),
  shape: ({ x }) => x,
  kernel: {
    kind: 'composite',
    of: ({ x, g, dy }, { eps }) => {
      const { c, r } = centred(x, eps);
      const [xh, d] = [mul(c, r), mul(dy, g)];
      return mul(r, sub(sub(d, mean(d, [-1], true)), mul(xh, mean(mul(d, xh), [-1], true))));
    },
  },
});
/** dg = Σ dy·x̂ */
const layerNormGain: Op<'x' | 'dy', { eps: number }> = defineOp<'x' | 'dy', { eps: number }>({
  name: 'layerNormGain',
  inputs: ['x', 'dy'],
  flops: ({ x }) => 7 * size(x),
  shape: ({ x }) => x.slice(-1),
  kernel: {
    kind: 'composite',
    of: ({ x, dy }, { eps }) => {
      const { c, r } = centred(x, eps);
      return sumTo(mul(dy, mul(c, r)), x.shape.slice(-1));
    },
  },
});
export const layerNorm = (x: Tensor, g: Tensor, b: Tensor, eps = 1e-5): Tensor => layerNormOp({ x, g, b }, { eps });

const rootMean = (x: Tensor, eps: number): Tensor => rsqrt(add(mean(mul(x, x), [-1], true), eps));
/** y = g·x·r, r = 1/√(mean x² + ε).  dx = r(dx̂ − x̂·mean(dx̂·x̂)), x̂ = x·r  (Zhang & Sennrich 2019, arXiv 1910.07467) */
const rmsNormOp: Op<'x' | 'g', { eps: number }> = defineOp<'x' | 'g', { eps: number }>({
  name: 'rmsNorm',
  inputs: ['x', 'g'],
  flops: ({ x }) => 5 * size(x),
  shape: ({ x, g }) => {
    oneVector('rmsNorm', x, g);
    return x;
  },
  kernel: { kind: 'composite', of: ({ x, g }, { eps }) => mul(mul(x, rootMean(x, eps)), g) },
  vjp: ({ x, g, dy, attrs }) => ({ x: () => rmsNormGrad({ x, g, dy }, attrs), g: () => rmsNormGain({ x, dy }, attrs) }),
});
const rmsNormGrad: Op<'x' | 'g' | 'dy', { eps: number }> = defineOp<'x' | 'g' | 'dy', { eps: number }>({
  name: 'rmsNormGrad',
  inputs: ['x', 'g', 'dy'],
  flops: ({ x }) => 8 * size(x),
  shape: ({ x }) => x,
  kernel: {
    kind: 'composite',
    of: ({ x, g, dy }, { eps }) => {
      const r = rootMean(x, eps);
      const [xh, d] = [mul(x, r), mul(dy, g)];
      return mul(r, sub(d, mul(xh, mean(mul(d, xh), [-1], true))));
    },
  },
});
const rmsNormGain: Op<'x' | 'dy', { eps: number }> = defineOp<'x' | 'dy', { eps: number }>({
  name: 'rmsNormGain',
  inputs: ['x', 'dy'],
  flops: ({ x }) => 4 * size(x),
  shape: ({ x }) => x.slice(-1),
  kernel: { kind: 'composite', of: ({ x, dy }, { eps }) => sumTo(mul(dy, mul(x, rootMean(x, eps))), x.shape.slice(-1)) },
});
export const rmsNorm = (x: Tensor, g: Tensor, eps = 1e-6): Tensor => rmsNormOp({ x, g }, { eps });

/** (x₁, x₂) → (−x₂, x₁) on the halves of the last dimension: a quarter turn, whose transpose is its negative. */
const quarterOp: Op<'x', null> = defineOp<'x'>({
  name: 'quarterTurn',
  inputs: ['x'],
  flops: ({ x }) => size(x),
  shape: ({ x }) => {
    if (dim(x, -1) % 2) throw new ShapeError(`quarterTurn: the last dimension of ${show(x)} must be even`);
    return x;
  },
  kernel: {
    kind: 'custom',
    body: ({ shapes, i, at }) => {
      const h = dim(shapes.x, -1) / 2;
      const rest = i.slice(0, -1);
      return `if (${X} < ${h}) { return -${at('x', [...rest, `Math.min(${X} + ${h}, ${2 * h - 1})`])}; }
  return ${at('x', [...rest, `Math.max(${X} - ${h}, 0)`])};`;
    },
  },
  vjp: ({ dy }) => ({ x: () => neg(quarterTurn(dy)) }),
});
export const quarterTurn = (x: Tensor): Tensor => quarterOp({ x }, null);

/** cos and sin of position × frequency, [..., T] → [..., T, D]; frequency k of D/2 is base^(−2k/D), both halves alike. */
export function ropeAngles(
  positions: Tensor,
  width: number,
  base = 10000,
  scale = 1,
  bands: RopeBands | null = null,
): { cos: Tensor; sin: Tensor } {
  const half = width / 2;
  if (!Number.isInteger(half)) throw new ShapeError(`rope: the head width ${width} must be even`);
  const k = iota(width);
  const frequency = exp(mul(sub(k, mul(half, le(half, k))), (-2 * Math.log(base)) / width));
  const angle = mul(mul(reshape(positions, [...positions.shape, 1]), scale), bands === null ? frequency : stretched(frequency, bands));
  return { cos: cos(angle), sin: sin(angle) };
}

/**
 * Llama 3's way to a longer text: pairs that turn fewer than `low` times within the `original` longest text are slowed down by
 * `factor`, those that turn more than `high` times stay, and between the two the slowing fades out in the number of turns.
 */
export type RopeBands = { readonly factor: number; readonly low: number; readonly high: number; readonly original: number };
/** f ← f·(s + (1 − s)/factor),  s = clamp((original·f/2π − low)/(high − low), 0, 1)  (Grattafiori et al. 2024, arXiv 2407.21783; Meta's code) */
function stretched(f: Tensor, { factor, low, high, original }: RopeBands): Tensor {
  const s = clamp(div(sub(mul(f, original / (2 * Math.PI)), low), high - low), 0, 1);
  return mul(f, add(mul(s, 1 - 1 / factor), 1 / factor));
}
/** Rotary positions (Su et al. 2021, arXiv 2104.09864), in the half-split layout of GPT-NeoX and LLaMA. x [..., T, D] */
export const rope = (x: Tensor, angles: { cos: Tensor; sin: Tensor }): Tensor => add(mul(x, angles.cos), mul(quarterTurn(x), angles.sin));

interface AttentionAttrs {
  readonly causal: boolean;
  readonly scale: number;
}
const causalBias: Op<never, { t: number; s: number }> = defineOp<never, { t: number; s: number }>({
  name: 'causalBias',
  inputs: [],
  shape: (_, { t, s }) => [t, s],
  flops: () => 0,
  vjp: () => ({}),
  kernel: { kind: 'custom', body: ({ i, attrs: { t, s } }) => `return ${i[1]} > ${i[0]} + ${s - t} ? -1000000000.0 : 0.0;` },
});
/** GQA: H/Hk query heads share one key head. [B, H, …] → [B, Hk, H/Hk, …], and [B, Hk, …] → [B, Hk, 1, …]. */
function heads(q: Tensor, k: Tensor): { grouped(x: Tensor): Tensor; shared(x: Tensor): Tensor } {
  const [b, h, hk] = [q.shape[0]!, q.shape[1]!, k.shape[1]!];
  const split = (x: Tensor, each: number): Tensor => (h === hk ? x : reshape(x, [b, hk, each, ...x.shape.slice(2)]));
  return { grouped: (x) => split(x, h / hk), shared: (x) => split(x, 1) };
}
/** softmax(q·kᵀ·scale + bias) [B, H, T, S] */
function probabilities({ q, k, bias }: Ins<'q' | 'k' | 'bias'>, { causal, scale }: AttentionAttrs): Tensor {
  const [b, h, t] = q.shape as readonly [number, number, number];
  const s = k.shape[2]!;
  const { grouped, shared } = heads(q, k);
  const scores = reshape(matmul(grouped(mul(q, scale)), shared(k).T), [b, h, t, s]); // q scaled: T·D products instead of T·S
  const masked = causal && t > 1 ? add(scores, causalBias({}, { t, s })) : scores;
  return softmax(bias.shape.length === 0 ? masked : add(masked, bias));
}
interface AttentionGrad extends AttentionAttrs {
  readonly wrt: 'q' | 'k' | 'v' | 'bias';
}
/** One gradient of attention: dv = pᵀ·dy; with ds the gradient of the scores, dq = ds·k·scale, dk = dsᵀ·q·scale, dbias = ds. `y` is there for engines that compute p again. */
const attentionGrad: Op<'q' | 'k' | 'v' | 'bias' | 'y' | 'dy', AttentionGrad> = defineOp<
  'q' | 'k' | 'v' | 'bias' | 'y' | 'dy',
  AttentionGrad
>({
  name: 'attentionGrad',
  inputs: ['q', 'k', 'v', 'bias', 'y', 'dy'],
  shape: (shapes, { wrt }) => shapes[wrt],
  kernel: {
    kind: 'composite',
    of: ({ q, k, v, bias, dy }, { wrt, ...attrs }) => {
      const { grouped, shared } = heads(q, k);
      const p = probabilities({ q, k, bias }, attrs);
      const summed = (x: Tensor, like: Tensor): Tensor => reshape(sumTo(x, shared(like).shape), like.shape); // over the queries of one key head
      if (wrt === 'v') return summed(matmul(grouped(p).T, grouped(dy)), v);
      const dp = reshape(matmul(grouped(dy), shared(v).T), p.shape);
      const ds = softmaxGrad({ y: p, dy: dp }, null);
      if (wrt === 'bias') return sumTo(ds, bias.shape);
      if (wrt === 'k') return summed(matmul(grouped(ds).T, grouped(mul(q, attrs.scale))), k);
      return mul(reshape(matmul(grouped(ds), shared(k)), q.shape), attrs.scale);
    },
  },
});
const attentionOp: Op<'q' | 'k' | 'v' | 'bias', AttentionAttrs> = defineOp<'q' | 'k' | 'v' | 'bias', AttentionAttrs>({
  name: 'attention',
  inputs: ['q', 'k', 'v', 'bias'],
  shape: ({ q, k, v, bias }) => {
    if (q.length !== 4 || k.length !== 4 || v.length !== 4)
      throw new ShapeError(`attention: q, k and v must be [B, H, T, D], got ${show(q)}, ${show(k)}, ${show(v)}`);
    const [h, hk] = [q[1]!, k[1]!];
    if (h % hk) throw new ShapeError(`attention: ${h} query heads do not divide among ${hk} key heads`);
    if (q[3] !== k[3] || k[2] !== v[2] || hk !== v[1])
      throw new ShapeError(
        `attention: q ${show(q)}, k ${show(k)} and v ${show(v)} do not fit: D must agree for q and k, S and heads for k and v`,
      );
    for (const [name, s] of [
      ['k', k],
      ['v', v],
    ] as const)
      if (s[0] !== q[0]) throw new ShapeError(`attention: ${name} ${show(s)} and q ${show(q)} must have the same batch size`);
    const scores = [q[0]!, h, q[2]!, k[2]!];
    if (!same(broadcast(bias, scores, 'attention (bias)'), scores))
      throw new ShapeError(`attention: the bias ${show(bias)} does not broadcast to the scores ${show(scores)}`);
    return [q[0]!, h, q[2]!, v[3]!];
  },
  kernel: {
    kind: 'composite',
    of: (ins, attrs) => {
      const { q, v } = ins;
      const { grouped, shared } = heads(q, ins.k);
      return reshape(matmul(grouped(probabilities(ins, attrs)), shared(v)), [...q.shape.slice(0, 3), dim(v.shape, -1)]);
    },
  },
  vjp: ({ q, k, v, bias, y, dy, attrs }) => {
    const of = (wrt: AttentionGrad['wrt']) => (): Tensor => attentionGrad({ q, k, v, bias, y, dy }, { ...attrs, wrt });
    return { q: of('q'), k: of('k'), v: of('v'), bias: of('bias') };
  },
  flops: ({ q, k, v }) => 2 * size(q) * k[2]! + 2 * q[0]! * q[1]! * q[2]! * k[2]! * v[3]! + 5 * q[0]! * q[1]! * q[2]! * k[2]!,
});
/**
 * softmax(q·kᵀ·scale + bias)·v. q [B, H, T, D], k and v [B, Hk, S, D] with Hk dividing H. `causal` lets query i see keys
 * j ≤ i + S − T: keys that were there before the text (a prefix, a cache) are visible to all. `bias` is added to the scores
 * and broadcasts to [B, H, T, S]; −1e9 hides a key. The result of a query whose keys are all hidden means nothing, but it is finite.
 * Scale defaults to 1/√D.
 */
export const attention = (
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { causal = false, bias = null, scale = 1 / Math.sqrt(dim(q.shape, -1)) }: { causal?: boolean; bias?: Tensor | null; scale?: number } = {},
): Tensor => attentionOp({ q, k, v, bias: bias ?? lift(0) }, { causal, scale });

/** −log softmax(x)[target] at each position, 0 where the target is `ignore`. dx = dy(softmax − onehot) at positions that count. */
const nllOp: Op<'x' | 'target', { ignore: number }> = defineOp<'x' | 'target', { ignore: number }>({
  name: 'nll',
  inputs: ['x', 'target'],
  flops: ({ x }) => 6 * size(x),
  shape: ({ x, target }) => {
    if (!same(x.slice(0, -1), target))
      throw new ShapeError(`crossEntropy: logits ${show(x)} need one target each for ${show(x.slice(0, -1))}, got ${show(target)}`);
    return target;
  },
  kernel: {
    kind: 'composite',
    of: ({ x, target }, { ignore }) => {
      const picked = takeAlong(x, reshape(max(target, 0), [...target.shape, 1]));
      return where(ne(target, ignore), reshape(sub(logsumexp(x, [-1], true), picked), target.shape), 0);
    },
  },
  vjp: ({ x, target, dy, attrs: { ignore } }) => ({
    x: () =>
      mul(
        reshape(mul(dy, ne(target, ignore)), [...target.shape, 1]),
        sub(exp(sub(x, logsumexp(x, [-1], true))), oneHot(target, dim(x.shape, -1))),
      ),
    target: null,
  }),
  range: ({ x }, { ignore }) => ({ target: [Math.min(ignore, 0), dim(x, -1)] }),
});
/** Mean −log p(target) over the positions whose target is not `ignore` (−100, as in PyTorch). logits [..., V], targets [...] */
export function crossEntropy(logits: Tensor, targets: Tensor, ignore = -100): Tensor {
  const counted = sum(ne(targets, ignore));
  return div(sum(nllOp({ x: logits, target: targets }, { ignore })), max(counted, 1));
}
/** −log p(target) at each position, 0 at ignored ones. */
export const nll = (logits: Tensor, targets: Tensor, ignore = -100): Tensor => nllOp({ x: logits, target: targets }, { ignore });

/** x with elements dropped where `mask` is 0, the rest divided by `keep`. The mask comes from the host (see rng.ts). */
export const dropout = (x: Tensor, mask: Tensor, keep: number): Tensor => mul(mul(x, mask), 1 / keep);

/** Added to attention scores: 0 where keyMask [B, S] is 1, −1e9 where it is 0. [B, 1, 1, S] */
export const keyBias = (keyMask: Tensor): Tensor =>
  reshape(where(eq(keyMask, 0), -1e9, 0), [dim(keyMask.shape, 0), 1, 1, dim(keyMask.shape, 1)]);
