// A decoder-only language model with the switches of GPT-2 and LLaMA. [B, T] ids → [B, T, V] logits.
import { matmul } from '../core/ops/matmul.ts';
import type { Rng } from '../core/rng.ts';
import { ShapeError } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';
import { newAttention, type Rope } from './attention.ts';
import { hidden, inside, pickToken } from './backbone.ts';
import { preNormBlock } from './block.ts';
import { embedding, newTable } from './embedding.ts';
import { type Layer, layer, type Model } from './layer.ts';
import { newLinear } from './linear.ts';
import { type Activation, newMlp } from './mlp.ts';
import { newNorm } from './norm.ts';

export interface DecoderConfig {
  readonly vocabulary: number;
  readonly width: number; // D
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number; // fewer than heads: grouped-query attention
  readonly inner: number; // feed-forward width
  readonly positions: number; // longest sequence
  readonly rope: Rope | null; // null: learned absolute positions
  readonly norm: 'layer' | 'rms';
  readonly eps: number; // of the norms
  readonly activation: Activation;
  readonly gated: boolean;
  readonly bias: boolean | Biases; // of the linear layers
  readonly fusedQkv: boolean;
  readonly tied: boolean; // the head is the embedding table
}

/** Biases of some linear layers only. */
export interface Biases {
  readonly qkv: boolean;
  readonly o: boolean;
  readonly mlp: boolean;
}
export const biasesOf = (b: boolean | Biases): Biases => (typeof b === 'boolean' ? { qkv: b, o: b, mlp: b } : b);

type Sizes = Pick<DecoderConfig, 'vocabulary' | 'width' | 'layers' | 'heads' | 'positions'>;
/** Pre-layer-norm, learned positions, tanh GELU, biases, tied head (Radford et al. 2019). */
export const gpt2 = (c: Sizes & Partial<DecoderConfig>): DecoderConfig => ({
  kvHeads: c.heads,
  inner: 4 * c.width,
  rope: null,
  norm: 'layer',
  eps: 1e-5,
  activation: 'geluTanh',
  gated: false,
  bias: true,
  fusedQkv: false,
  tied: true,
  ...c,
});
/** RMS norm, rotary positions, gated SiLU, no biases, untied head, fewer key heads (Touvron et al. 2023, arXiv 2302.13971). */
export const llama = (c: Sizes & Partial<DecoderConfig>): DecoderConfig => ({
  kvHeads: c.heads,
  inner: 4 * c.width,
  rope: { base: 10000, scale: 1 },
  norm: 'rms',
  eps: 1e-6,
  activation: 'silu',
  gated: true,
  bias: false,
  fusedQkv: false,
  tied: false,
  ...c,
});
/** As LLaMA, with biases of q, k and v (Qwen team 2024, arXiv 2407.10671). */
export const qwen2 = (c: Sizes & Partial<DecoderConfig>): DecoderConfig => ({
  ...llama(c),
  ...{ rope: { base: 1000000, scale: 1 }, bias: { qkv: true, o: false, mlp: false } },
  ...c,
});

/** Blocks between embedding and head; adds learned positions, so that a prompt put in front of h gets the first ones. */
export const trunk = (
  positions: Layer<'embedding'> | null,
  blocks: readonly Layer<'block'>[],
  norm: Layer<'norm'> | null,
  width: number,
  longest: number,
  first: Layer<'norm'> | null = null,
): Layer<'trunk'> =>
  layer('trunk', { positions, first, blocks, norm, width, longest }, (f) => (h, ctx) => {
    const tokens = h.shape[1]!;
    if (tokens > f.longest)
      throw new ShapeError(
        `trunk: ${tokens} tokens (prompts included), but this model has ${f.longest} positions; shorten the text, or extend the positions`,
      );
    const at = f.positions === null ? h : h.add(f.positions(ctx.positions, ctx)); // [B, T, D]
    const start = f.first === null ? at : f.first(at, ctx);
    const end = f.blocks.reduce((x, block) => block(x, ctx), start);
    return f.norm === null ? end : f.norm(end, ctx);
  });

/** logits = h·Eᵀ with the embedding's own table: one parameter, used twice. */
export const tiedHead = (table: Layer<'weight'>): Layer<'linear'> =>
  layer('linear', { weight: table, bias: null }, (f) => (h, ctx) => matmul(h, f.weight(ctx).T));

/** Next-token logits [B, T, V]; [B, 1, V] where the context asks for one token of each row only. */
export const languageModel = (embed: Layer<'embedding'>, body: Layer<'trunk'>, head: Layer<'linear'>): Model =>
  layer('model', { embed, types: null, trunk: body, causal: true as boolean, padding: null, head }, (f) => (batch, ctx) => {
    const c = inside(f, batch, ctx);
    const h = hidden(f, batch, c); // [B, T, D]
    const head = (x: Tensor): Tensor => f.head(x, c);
    if (ctx.readOut !== undefined) return ctx.readOut(h, head);
    return head(ctx.only == null ? h : pickToken(h, ctx.only));
  });

/** A freshly initialised decoder: N(0, 0.02²), output projections scaled by 1/√(2L) as in GPT-2. All of it trainable. */
export function decoder(c: DecoderConfig, r: Rng): Model {
  if (c.width % c.heads) throw new ShapeError(`decoder: width ${c.width} does not divide into ${c.heads} heads`);
  if (c.heads % c.kvHeads) throw new ShapeError(`decoder: ${c.heads} heads do not divide among ${c.kvHeads} key heads`);
  const std = 0.02 / Math.sqrt(2 * c.layers);
  const bias = biasesOf(c.bias);
  const table = newTable(c.vocabulary, c.width, r.split('embed'));
  const blocks = Array.from({ length: c.layers }, (_, k) => {
    const at = r.split(`blocks.${k}`);
    return preNormBlock({
      norm1: newNorm(c.width, c.norm, c.eps),
      attn: newAttention(c, at.split('attn'), { bias: bias.qkv, outBias: bias.o, fused: c.fusedQkv, std }),
      norm2: newNorm(c.width, c.norm, c.eps),
      mlp: newMlp(c.width, c.inner, at.split('mlp'), { activation: c.activation, gated: c.gated, bias: bias.mlp, std }),
      width: c.width,
    });
  });
  const positions = c.rope === null ? embedding(newTable(c.positions, c.width, r.split('positions'))) : null;
  return languageModel(
    embedding(table),
    trunk(positions, blocks, newNorm(c.width, c.norm, c.eps), c.width, c.positions),
    c.tied ? tiedHead(table) : newLinear(c.width, c.vocabulary, r.split('head'), { bias: false }),
  );
}
