// GPT-2's config.json. Its linear layers are stored [in, out] (Conv1D), with q, k and v as one: io/names.ts knows that.
import { z } from 'zod';
import { type DecoderConfig, gpt2 } from '../../nn/decoder.ts';
import { activation, activationName, checked, checkHeads, count, epsilon, type JsonObject, only, yesOrNo } from './config.ts';

const schema = z.object({
  vocab_size: count,
  n_embd: count,
  n_layer: count,
  n_head: count,
  n_positions: count,
  n_inner: count.nullish(),
  activation_function: activation.default('geluTanh'),
  layer_norm_epsilon: epsilon.default(1e-5),
  tie_word_embeddings: yesOrNo.default(true),
  scale_attn_weights: only(true, 'attention here always divides by √D'),
  scale_attn_by_inverse_layer_idx: only(false, 'attention here is scaled alike in all layers'),
  add_cross_attention: only(false, 'this library has no encoder-decoder networks'),
});

export function parseGpt2(json: JsonObject, file: string): DecoderConfig {
  const c = checked(schema, json, file);
  checkHeads(file, { hidden: ['n_embd', c.n_embd], query: ['n_head', c.n_head], keys: c.n_head });
  return gpt2({
    vocabulary: c.vocab_size,
    width: c.n_embd,
    layers: c.n_layer,
    heads: c.n_head,
    positions: c.n_positions,
    inner: c.n_inner ?? 4 * c.n_embd,
    activation: c.activation_function,
    eps: c.layer_norm_epsilon,
    tied: c.tie_word_embeddings,
    fusedQkv: true,
  });
}

export const gpt2Json = (c: DecoderConfig): JsonObject => ({
  model_type: 'gpt2',
  vocab_size: c.vocabulary,
  n_embd: c.width,
  n_layer: c.layers,
  n_head: c.heads,
  n_positions: c.positions,
  n_inner: c.inner === 4 * c.width ? null : c.inner,
  activation_function: activationName(c.activation),
  layer_norm_epsilon: c.eps,
  tie_word_embeddings: c.tied,
});
