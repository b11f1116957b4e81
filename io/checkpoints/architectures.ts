// The architectures this library reads and writes, by the model_type of their config.json.
import type { DecoderConfig } from '../../nn/decoder.ts';
import type { EncoderConfig } from '../../nn/encoder.ts';
import { isJsonObject, parseJson } from '../adapterJson.ts';
import type { Architecture as Family } from '../names.ts';
import { bertJson, parseBert, parseRoberta } from './bert.ts';
import { type CheckpointConfig, CLASS, classesOf, decoderHead, encoderHead, isDecoder, type JsonObject, labels } from './config.ts';
import { gpt2Json, parseGpt2 } from './gpt2.ts';
import { llamaJson, parseLlama, parseQwen2, qwen2Json } from './llama.ts';

interface Decoder {
  readonly stem: string; // of their class names
  readonly family: Family; // whose names its tensors have
  readonly prefix: string; // of names inside the network proper; files of networks without a head leave it out
  readonly parse: (json: JsonObject, file: string) => DecoderConfig;
  readonly json: (c: DecoderConfig) => JsonObject;
}
interface Encoder extends Omit<Decoder, 'parse' | 'json'> {
  readonly parse: (json: JsonObject, file: string) => EncoderConfig;
  readonly json: (c: EncoderConfig) => JsonObject;
}
const DECODERS = {
  gpt2: { stem: 'GPT2', family: 'gpt2', prefix: 'transformer.', parse: parseGpt2, json: gpt2Json },
  llama: { stem: 'Llama', family: 'llama', prefix: 'model.', parse: parseLlama, json: llamaJson },
  qwen2: { stem: 'Qwen2', family: 'llama', prefix: 'model.', parse: parseQwen2, json: qwen2Json },
} as const satisfies Record<string, Decoder>;
const ENCODERS = {
  bert: {
    stem: 'Bert',
    family: 'bert',
    prefix: 'bert.',
    parse: parseBert,
    json: (c: EncoderConfig) => bertJson(c, 'bert'),
  },
  roberta: {
    stem: 'Roberta',
    family: 'roberta',
    prefix: 'roberta.',
    parse: parseRoberta,
    json: (c: EncoderConfig) => bertJson(c, 'roberta'),
  },
  'xlm-roberta': {
    stem: 'XLMRoberta',
    family: 'roberta',
    prefix: 'roberta.',
    parse: parseRoberta,
    json: (c: EncoderConfig) => bertJson(c, 'xlm-roberta'),
  },
} as const satisfies Record<string, Encoder>;
const KNOWN = [...Object.keys(DECODERS), ...Object.keys(ENCODERS)];

/** Whose names an architecture's tensors have. */
export const namingOf = (a: CheckpointConfig['architecture']): { readonly family: Family; readonly prefix: string } =>
  ({ ...DECODERS, ...ENCODERS })[a];

/** A config.json, every field that matters checked. `file` is what errors call it. */
export function parseConfig(text: string, file: string): { readonly config: CheckpointConfig; readonly json: JsonObject } {
  const json = parseJson(text);
  if (!isJsonObject(json)) throw new Error(`${file}: is not a JSON object`);
  const kind = json.model_type;
  const bits = json.quantization_config;
  // bitsandbytes' four bits are read as they are: their tensors say the rest
  const readable = isJsonObject(bits) && bits.load_in_4bit === true && (bits.quant_method ?? 'bitsandbytes') === 'bitsandbytes';
  if (bits != null && !readable)
    throw new Error(
      `${file}: the weights are quantised (quantization_config) in another way than bitsandbytes' four bits; load the checkpoint it was made from, and quantise here with quantize(model, where, scheme)`,
    );
  if (typeof kind === 'string' && Object.hasOwn(DECODERS, kind)) {
    const architecture = kind as keyof typeof DECODERS;
    const { stem, parse } = DECODERS[architecture];
    const sizes = parse(json, file);
    return { json, config: { architecture, sizes, head: decoderHead(json, stem, file), classes: classesOf(json) } };
  }
  if (typeof kind === 'string' && Object.hasOwn(ENCODERS, kind)) {
    const architecture = kind as keyof typeof ENCODERS;
    const { stem, parse } = ENCODERS[architecture];
    return { json, config: { architecture, sizes: parse(json, file), head: encoderHead(json, stem), classes: classesOf(json) } };
  }
  throw new Error(`${file}: model_type is ${JSON.stringify(kind) ?? 'missing'}; this library knows ${KNOWN.join(', ')}`);
}

/** The config.json that transformers reads as this. */
export function configJson(c: CheckpointConfig): JsonObject {
  const { stem } = { ...DECODERS, ...ENCODERS }[c.architecture];
  const name = stem + (c.architecture === 'gpt2' && c.head === 'language' ? 'LMHeadModel' : CLASS[c.head]);
  const { tie_word_embeddings: tied, ...own } = isDecoder(c)
    ? DECODERS[c.architecture].json(c.sizes)
    : ENCODERS[c.architecture].json(c.sizes);
  const tie: JsonObject = c.head === 'language' ? { tie_word_embeddings: tied! } : {}; // else there is no head to tie
  return { architectures: [name], ...own, ...tie, ...(c.head === 'sequence' || c.head === 'token' ? labels(c.classes) : {}) };
}
