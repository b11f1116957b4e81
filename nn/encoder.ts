// A bidirectional encoder with the switches of BERT and RoBERTa. [B, T] ids → [B, T, D] hidden states.
import type { Rng } from '../core/rng.ts';
import { ShapeError } from '../core/shape.ts';
import { newAttention } from './attention.ts';
import { hidden, inside } from './backbone.ts';
import { postNormBlock } from './block.ts';
import { trunk } from './decoder.ts';
import { embedding, newTable } from './embedding.ts';
import { type Layer, layer, type Model } from './layer.ts';
import { type Activation, newMlp } from './mlp.ts';
import { newNorm } from './norm.ts';

export interface EncoderConfig {
  readonly vocabulary: number;
  readonly width: number; // D
  readonly layers: number;
  readonly heads: number;
  readonly inner: number; // feed-forward width
  readonly positions: number; // longest sequence
  readonly positionOffset: number; // rows of the position table before the first token's
  readonly padding: number | null; // the id that positions are not counted at (RoBERTa); null: all are
  readonly types: number; // token types (segments); 0: no such embedding
  readonly activation: Activation;
  readonly eps: number; // of the layer norms
}

type Sizes = Pick<EncoderConfig, 'vocabulary' | 'width' | 'layers' | 'heads' | 'positions'>;
/** Post-layer-norm, learned positions, two token types, exact GELU (Devlin et al. 2018, arXiv 1810.04805). */
export const bert = (c: Sizes & Partial<EncoderConfig>): EncoderConfig => ({
  inner: 4 * c.width,
  positionOffset: 0,
  padding: null,
  types: 2,
  activation: 'gelu',
  eps: 1e-12,
  ...c,
});
/**
 * As BERT, with one token type, and positions counted from padding id + 1 over the ids that are not padding (Liu et al. 2019, arXiv
 * 1907.11692). `positions` is the longest text, 512: the 514 rows of a checkpoint's table less the offset of 2.
 */
export const roberta = (c: Sizes & Partial<EncoderConfig>): EncoderConfig => ({
  ...bert(c),
  ...{ positionOffset: 2, padding: 1, types: 1, eps: 1e-5 },
  ...c,
});

/** Embeddings and a trunk as a model that answers hidden states. Keys where the batch's keyMask is 0 are hidden from all tokens. */
export const encoderModel = (
  embed: Layer<'embedding'>,
  types: Layer<'embedding'> | null,
  body: Layer<'trunk'>,
  padding: number | null = null,
): Model =>
  layer(
    'model',
    { embed, types, trunk: body, causal: false as boolean, padding },
    (f) => (batch, ctx) => hidden(f, batch, inside(f, batch, ctx)),
  );

/** A freshly initialised encoder: every matrix N(0, 0.02²). All of it trainable. */
export function encoder(c: EncoderConfig, r: Rng): Model {
  if (c.width % c.heads) throw new ShapeError(`encoder: width ${c.width} does not divide into ${c.heads} heads`);
  const blocks = Array.from({ length: c.layers }, (_, k) => {
    const at = r.split(`blocks.${k}`);
    return postNormBlock({
      norm1: newNorm(c.width, 'layer', c.eps),
      attn: newAttention({ ...c, kvHeads: c.heads, rope: null }, at.split('attn'), { bias: true, fused: false, std: 0.02 }),
      norm2: newNorm(c.width, 'layer', c.eps),
      mlp: newMlp(c.width, c.inner, at.split('mlp'), { activation: c.activation, gated: false, bias: true, std: 0.02 }),
      width: c.width,
    });
  });
  const positions = embedding(newTable(c.positions + c.positionOffset, c.width, r.split('positions')), c.positionOffset);
  return encoderModel(
    embedding(newTable(c.vocabulary, c.width, r.split('embed'))),
    c.types === 0 ? null : embedding(newTable(c.types, c.width, r.split('types'))),
    trunk(positions, blocks, null, c.width, c.positions, newNorm(c.width, 'layer', c.eps)),
    c.padding,
  );
}
