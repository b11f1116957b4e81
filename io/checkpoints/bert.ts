// config.json of BERT (MiniLM among them) and RoBERTa, whose positions start after its padding id and count real ids only.
import { z } from 'zod';
import { bert, type EncoderConfig, roberta } from '../../nn/encoder.ts';
import { activation, activationName, checked, checkHeads, count, epsilon, type JsonObject, only } from './config.ts';

const FROM_ZERO = 'it must be a whole number from 0';
const schema = z.object({
  vocab_size: count,
  hidden_size: count,
  num_hidden_layers: count,
  num_attention_heads: count,
  intermediate_size: count,
  max_position_embeddings: count,
  type_vocab_size: z.int(FROM_ZERO).min(0, FROM_ZERO).default(2),
  pad_token_id: z.int(FROM_ZERO).min(0, FROM_ZERO).nullish(),
  hidden_act: activation.default('gelu'),
  layer_norm_eps: epsilon.default(1e-12),
  position_embedding_type: only('absolute', 'only absolute positions are supported, no distances between tokens'),
  is_decoder: only(false, 'an encoder here sees the whole text'),
  add_cross_attention: only(false, 'this library has no encoder-decoder networks'),
});

function sizesOf(
  json: JsonObject,
  file: string,
  offset: (pad: number) => number,
): Parameters<typeof bert>[0] & { readonly positionOffset: number } {
  const c = checked(schema, json, file);
  checkHeads(file, {
    hidden: ['hidden_size', c.hidden_size],
    query: ['num_attention_heads', c.num_attention_heads],
    keys: c.num_attention_heads,
  });
  const positionOffset = offset(c.pad_token_id ?? 1);
  if (c.max_position_embeddings <= positionOffset)
    throw new Error(
      `${file}: max_position_embeddings is ${c.max_position_embeddings}; the first ${positionOffset} rows are for padding, so more are needed`,
    );
  return {
    vocabulary: c.vocab_size,
    width: c.hidden_size,
    heads: c.num_attention_heads,
    layers: c.num_hidden_layers,
    inner: c.intermediate_size,
    types: c.type_vocab_size,
    activation: c.hidden_act,
    eps: c.layer_norm_eps,
    positions: c.max_position_embeddings - positionOffset,
    positionOffset,
  };
}

export const parseBert = (json: JsonObject, file: string): EncoderConfig => bert(sizesOf(json, file, () => 0));
export function parseRoberta(json: JsonObject, file: string): EncoderConfig {
  const sizes = sizesOf(json, file, (pad) => pad + 1);
  return roberta({ ...sizes, padding: sizes.positionOffset - 1 });
}

export const bertJson = (c: EncoderConfig, kind: 'bert' | 'roberta' | 'xlm-roberta'): JsonObject => ({
  model_type: kind,
  vocab_size: c.vocabulary,
  hidden_size: c.width,
  num_hidden_layers: c.layers,
  num_attention_heads: c.heads,
  intermediate_size: c.inner,
  max_position_embeddings: c.positions + c.positionOffset,
  type_vocab_size: c.types,
  pad_token_id: c.padding ?? 0,
  hidden_act: activationName(c.activation),
  layer_norm_eps: c.eps,
  position_embedding_type: 'absolute',
});
