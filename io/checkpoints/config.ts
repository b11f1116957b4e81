// What a config.json of Hugging Face transformers says, in our terms; the parts that all architectures share.
import { z } from 'zod';
import type { DecoderConfig } from '../../nn/decoder.ts';
import type { EncoderConfig } from '../../nn/encoder.ts';
import type { Activation } from '../../nn/mlp.ts';
import type { Json } from '../adapterJson.ts';

export type JsonObject = { readonly [key: string]: Json };

/** A decoder's checkpoint: [B, T] ids → logits [B, T, V], or a class per text or token. */
export interface DecoderCheckpoint {
  readonly architecture: 'gpt2' | 'llama' | 'qwen2';
  readonly head: 'language' | 'sequence' | 'token';
  readonly classes: number; // of the sequence and token heads
  readonly sizes: DecoderConfig;
}
/** An encoder's: hidden states [B, T, D], or a class per text or token. */
export interface EncoderCheckpoint {
  readonly architecture: 'bert' | 'roberta' | 'xlm-roberta';
  readonly head: 'none' | 'sequence' | 'token';
  readonly classes: number;
  readonly sizes: EncoderConfig;
}
export type CheckpointConfig = DecoderCheckpoint | EncoderCheckpoint;
export const isDecoder = (c: CheckpointConfig): c is DecoderCheckpoint => 'kvHeads' in c.sizes;

const WHOLE = 'it must be a whole number from 1, below 2^24';
export const count = z
  .int(WHOLE)
  .min(1, WHOLE)
  .lt(2 ** 24, WHOLE); // no side of a tensor here is longer
const POSITIVE = 'it must be a number above 0';
export const positive = z.number(POSITIVE).positive(POSITIVE);
const FROM_ZERO = 'it must be a number from 0';
export const epsilon = z.number(FROM_ZERO).min(0, FROM_ZERO);
export const yesOrNo = z.boolean('it must be true or false');

/** A field that must have one value where it is given at all; `why` says what any other would need. */
export const only = (value: string | number | boolean, why: string): z.ZodType<unknown> =>
  z.literal(value, `only ${JSON.stringify(value)} is supported: ${why}`).nullish();

const ACTIVATIONS: Readonly<Record<string, Activation>> = {
  gelu: 'gelu',
  gelu_new: 'geluTanh',
  gelu_pytorch_tanh: 'geluTanh',
  relu: 'relu',
  silu: 'silu',
  swish: 'silu',
};
/** The name transformers has for an activation of ours. */
export const activationName = (a: Activation): string => (a === 'geluTanh' ? 'gelu_new' : a);
export const activation = z
  .string(`known are ${Object.keys(ACTIVATIONS).join(', ')}`)
  .refine((s) => Object.hasOwn(ACTIVATIONS, s), `known are ${Object.keys(ACTIVATIONS).join(', ')}`)
  .transform((s) => ACTIVATIONS[s]!);

/** `json` as the schema has it. Throws with every field that is wrong, what it is and what it should be. */
export function checked<S extends z.ZodType>(schema: S, json: Json, file: string): z.output<S> {
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const said = result.error.issues.map((i) => `${i.path.join('.')} is ${short(at(json, i.path))}; ${i.message}`);
  throw new Error(`${file}: ${said.slice(0, 8).join('\n  ')}`);
}
const at = (json: Json | undefined, path: readonly PropertyKey[]): Json | undefined =>
  path.reduce<Json | undefined>(
    (j, k) => (typeof j === 'object' && j !== null && Object.hasOwn(j, k) ? (j as JsonObject)[String(k)] : undefined),
    json,
  );
const short = (v: Json | undefined): string => {
  const s = v == null ? 'missing' : JSON.stringify(v);
  return s.length > 80 ? `${s.slice(0, 80)}…` : s;
};

/** Widths of heads are the same for all of them here: refuses what does not divide. */
export function checkHeads(
  file: string,
  heads: {
    readonly hidden: readonly [name: string, value: number];
    readonly query: readonly [name: string, value: number];
    readonly keys: number;
  },
): void {
  const { hidden, query, keys } = heads;
  if (hidden[1] % query[1] !== 0) throw new Error(`${file}: ${hidden[0]} ${hidden[1]} does not divide into ${query[0]} ${query[1]}`);
  if (query[1] % keys !== 0) throw new Error(`${file}: ${query[0]} ${query[1]} does not divide among num_key_value_heads ${keys}`);
}

const TASKS = {
  LMHeadModel: 'language',
  ForCausalLM: 'language',
  ForSequenceClassification: 'sequence',
  ForTokenClassification: 'token',
  Model: 'none',
} as const;
export type Task = (typeof TASKS)[keyof typeof TASKS] | 'other';
/** What the class that config.json names in `architectures` puts on the network: BertForTokenClassification → token. */
export function taskOf(json: JsonObject, stem: string): Task {
  const [name] = Array.isArray(json.architectures) ? (json.architectures as readonly Json[]) : [];
  if (name === undefined) return 'none';
  const rest = typeof name === 'string' && name.startsWith(stem) ? name.slice(stem.length) : '';
  return Object.hasOwn(TASKS, rest) ? TASKS[rest as keyof typeof TASKS] : 'other';
}

/** The head of a decoder; a class without one has the language model's, which may be tied to its table. */
export function decoderHead(json: JsonObject, stem: string, file: string): DecoderCheckpoint['head'] {
  const task = taskOf(json, stem);
  if (task === 'other')
    throw new Error(
      `${file}: architectures is ${JSON.stringify(json.architectures)}; of ${stem} this library has the language model, ${stem}ForSequenceClassification and ${stem}ForTokenClassification`,
    );
  return task === 'none' ? 'language' : task;
}
/** The head of an encoder; heads this library has not (masked words, spans) are left aside, and the hidden states remain. */
export function encoderHead(json: JsonObject, stem: string): EncoderCheckpoint['head'] {
  const task = taskOf(json, stem);
  return task === 'sequence' || task === 'token' ? task : 'none';
}

/** The number of classes: as many as have names, else num_labels, else 2. */
export function classesOf(json: JsonObject): number {
  const { id2label, num_labels: n } = json;
  if (typeof id2label === 'object' && id2label !== null && !Array.isArray(id2label)) return Object.keys(id2label).length;
  return typeof n === 'number' && Number.isInteger(n) && n > 0 ? n : 2;
}
/** id2label and its inverse, as transformers writes them. */
export function labels(classes: number): JsonObject {
  const names = Array.from({ length: classes }, (_, k) => [String(k), `LABEL_${k}`] as const);
  return { id2label: Object.fromEntries(names), label2id: Object.fromEntries(names.map(([k, n]) => [n, Number(k)])) };
}

export const CLASS = {
  none: 'Model',
  language: 'ForCausalLM',
  sequence: 'ForSequenceClassification',
  token: 'ForTokenClassification',
} as const;
