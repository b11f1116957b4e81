// config.json of LLaMA, Llama 3, SmolLM (all model_type llama) and Qwen2: rotary positions with their scalings, and biases.
import { z } from 'zod';
import type { Rope } from '../../nn/attention.ts';
import { biasesOf, type DecoderConfig, llama } from '../../nn/decoder.ts';
import type { Json } from '../adapterJson.ts';
import { activation, activationName, checked, checkHeads, count, epsilon, type JsonObject, only, positive, yesOrNo } from './config.ts';

const shared = {
  vocab_size: count,
  hidden_size: count,
  intermediate_size: count,
  num_hidden_layers: count,
  num_attention_heads: count,
  num_key_value_heads: count.nullish(),
  head_dim: count.nullish(),
  max_position_embeddings: count,
  hidden_act: activation.default('silu'),
  rms_norm_eps: epsilon.default(1e-6),
  tie_word_embeddings: yesOrNo.default(false),
  rope_theta: positive.nullish(),
  partial_rotary_factor: only(1, 'here whole heads are rotated'),
  rope_interleaved: only(false, 'here a head is rotated in halves, as in LLaMA'),
  layer_types: z.array(z.literal('full_attention', 'only "full_attention" is supported: no layer here attends in a window')).nullish(),
};
const llamaSchema = z.object({
  ...shared,
  attention_bias: yesOrNo.default(false),
  mlp_bias: yesOrNo.default(false),
});
const qwen2Schema = z.object({
  ...shared,
  use_sliding_window: only(false, 'no layer here attends in a window'),
});

export function parseLlama(json: JsonObject, file: string): DecoderConfig {
  const c = checked(llamaSchema, json, file);
  return { ...sizesOf(c, json, file), bias: { qkv: c.attention_bias, o: c.attention_bias, mlp: c.mlp_bias } };
}
export function parseQwen2(json: JsonObject, file: string): DecoderConfig {
  const c = checked(qwen2Schema, json, file);
  return { ...sizesOf(c, json, file), bias: { qkv: true, o: false, mlp: false } };
}

function sizesOf(c: z.output<z.ZodObject<typeof shared>>, json: JsonObject, file: string): DecoderConfig {
  const kvHeads = c.num_key_value_heads ?? c.num_attention_heads;
  checkHeads(file, { hidden: ['hidden_size', c.hidden_size], query: ['num_attention_heads', c.num_attention_heads], keys: kvHeads });
  const head = c.hidden_size / c.num_attention_heads;
  if (c.head_dim != null && c.head_dim !== head)
    throw new Error(
      `${file}: head_dim is ${c.head_dim}; only hidden_size / num_attention_heads = ${head} is supported: q here has the width of the network`,
    );
  if (head % 2 !== 0) throw new Error(`${file}: heads are ${head} wide, which rotary positions cannot halve`);
  return llama({
    vocabulary: c.vocab_size,
    width: c.hidden_size,
    layers: c.num_hidden_layers,
    heads: c.num_attention_heads,
    kvHeads,
    inner: c.intermediate_size,
    positions: c.max_position_embeddings,
    activation: c.hidden_act,
    eps: c.rms_norm_eps,
    tied: c.tie_word_embeddings,
    rope: ropeOf(c.rope_theta ?? 10000, json, file),
  });
}

const scaling = z.discriminatedUnion(
  'rope_type',
  [
    z.object({ rope_type: z.literal('default') }),
    z.object({ rope_type: z.literal('linear'), factor: positive }),
    z.object({
      rope_type: z.literal('llama3'),
      factor: positive,
      low_freq_factor: positive,
      high_freq_factor: positive,
      original_max_position_embeddings: count,
    }),
  ],
  'known are default, linear and llama3: the others (dynamic, yarn, longrope) change with the length of the text',
);

const own = z.object({ rope_theta: positive.nullish(), partial_rotary_factor: only(1, 'here whole heads are rotated') });

/** `rope_parameters` (transformers 5) or `rope_scaling` with `rope_theta` beside it; the kind was called `type` once. */
function ropeOf(theta: number, json: JsonObject, file: string): Rope {
  const key = json.rope_parameters != null ? 'rope_parameters' : 'rope_scaling';
  const given: Json = json[key] ?? {};
  if (typeof given !== 'object' || given === null || Array.isArray(given)) throw new Error(`${file}: ${key} is not an object`);
  const { rope_type, type, ...rest } = given as JsonObject;
  const base = checked(own, rest, `${file}, ${key}`).rope_theta ?? theta;
  const s = checked(scaling, { ...rest, rope_type: rope_type ?? type ?? 'default' }, `${file}, ${key}`);
  if (s.rope_type === 'default') return { base, scale: 1 };
  if (s.rope_type === 'linear') return { base, scale: 1 / s.factor };
  const { factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: original } = s;
  if (high <= low) throw new Error(`${file}, ${key}: high_freq_factor ${high} must be above low_freq_factor ${low}`);
  return { base, scale: 1, bands: { factor, low, high, original } };
}

/** Both spellings: transformers 5 reads rope_parameters, version 4 rope_theta and rope_scaling. */
function ropeJson({ base, scale, bands }: Rope): JsonObject {
  if (bands !== undefined && scale !== 1)
    throw new Error(
      `rotary positions are both squeezed (scale ${scale}) and stretched by bands, which no rope_type of transformers says; save before interpolatePositions`,
    );
  const kind: JsonObject =
    bands !== undefined
      ? {
          rope_type: 'llama3',
          factor: bands.factor,
          low_freq_factor: bands.low,
          high_freq_factor: bands.high,
          original_max_position_embeddings: bands.original,
        }
      : scale !== 1
        ? { rope_type: 'linear', factor: 1 / scale }
        : { rope_type: 'default' };
  return {
    rope_theta: base,
    rope_scaling: kind.rope_type === 'default' ? null : kind,
    rope_parameters: { ...kind, rope_theta: base },
  };
}

export function llamaJson(c: DecoderConfig): JsonObject {
  const bias = biasesOf(c.bias);
  return { model_type: 'llama', ...sizesJson(c), attention_bias: bias.qkv, mlp_bias: bias.mlp };
}
export const qwen2Json = (c: DecoderConfig): JsonObject => ({
  model_type: 'qwen2',
  ...sizesJson(c),
  use_sliding_window: false,
  layer_types: Array.from({ length: c.layers }, () => 'full_attention'),
});

const sizesJson = (c: DecoderConfig): JsonObject => ({
  vocab_size: c.vocabulary,
  hidden_size: c.width,
  intermediate_size: c.inner,
  num_hidden_layers: c.layers,
  num_attention_heads: c.heads,
  num_key_value_heads: c.kvHeads,
  head_dim: c.width / c.heads,
  max_position_embeddings: c.positions,
  hidden_act: activationName(c.activation),
  rms_norm_eps: c.eps,
  tie_word_embeddings: c.tied,
  ...ropeJson(c.rope!),
});
