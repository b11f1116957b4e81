// A BERT small enough for tests, as a model folder: config.json, tokenizer.json and random weights under Hugging Face's names.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { rng } from '../../core/rng.ts';
import { writeSafetensors } from '../../io/files.ts';
import type { Writable } from '../../io/safetensors.ts';

export const WORDS = [
  '[PAD]',
  '[UNK]',
  '[CLS]',
  '[SEP]',
  'good',
  'bad',
  'very',
  'the',
  'phone',
  'is',
  'not',
  '##s',
  'i',
  'love',
  'hate',
  '.',
];
export const CONFIG = {
  model_type: 'bert',
  vocab_size: WORDS.length,
  hidden_size: 8,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  intermediate_size: 12,
  max_position_embeddings: 24,
  type_vocab_size: 2,
  hidden_act: 'gelu',
  layer_norm_eps: 1e-12,
} as const;

/** [PAD] to a fixed length and truncation, as sentence encoders ship it: what a reader must ignore. */
export const TOKENIZER = {
  version: '1.0',
  truncation: { max_length: 5, strategy: 'LongestFirst', stride: 0 },
  padding: { strategy: { Fixed: 5 }, direction: 'Right', pad_to_multiple_of: null, pad_id: 0, pad_type_id: 0, pad_token: '[PAD]' },
  added_tokens: ['[PAD]', '[UNK]', '[CLS]', '[SEP]'].map((content, id) => ({
    ...{ id, special: true, content, single_word: false, lstrip: false, rstrip: false, normalized: false },
  })),
  normalizer: { type: 'BertNormalizer', clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase: true },
  pre_tokenizer: { type: 'BertPreTokenizer' },
  post_processor: {
    type: 'TemplateProcessing',
    single: [
      { SpecialToken: { id: '[CLS]', type_id: 0 } },
      { Sequence: { id: 'A', type_id: 0 } },
      { SpecialToken: { id: '[SEP]', type_id: 0 } },
    ],
    pair: [],
    special_tokens: { '[CLS]': { id: '[CLS]', ids: [2], tokens: ['[CLS]'] }, '[SEP]': { id: '[SEP]', ids: [3], tokens: ['[SEP]'] } },
  },
  decoder: { type: 'WordPiece', prefix: '##', cleanup: true },
  model: {
    ...{ type: 'WordPiece', unk_token: '[UNK]', continuing_subword_prefix: '##', max_input_chars_per_word: 100 },
    vocab: Object.fromEntries(WORDS.map((w, k) => [w, k])),
  },
};

/** Its tensors by name, N(0, 0.3²), norms around 1. */
export function tinyTensors(c: typeof CONFIG = CONFIG): Map<string, Writable> {
  const r = rng(1);
  const all = new Map<string, Writable>();
  const put = (name: string, ...shape: number[]): void => {
    const n = shape.reduce((a, b) => a * b, 1);
    all.set(name, { data: r.split(name).normal(n, 0.3, name.endsWith('LayerNorm.weight') ? 1 : 0), shape });
  };
  const dense = (name: string, out: number, into: number): void => {
    put(`${name}.weight`, out, into);
    put(`${name}.bias`, out);
  };
  const norm = (name: string): void => {
    put(`${name}.weight`, c.hidden_size);
    put(`${name}.bias`, c.hidden_size);
  };
  const [d, f] = [c.hidden_size, c.intermediate_size];
  put('embeddings.word_embeddings.weight', c.vocab_size, d);
  put('embeddings.position_embeddings.weight', c.max_position_embeddings, d);
  put('embeddings.token_type_embeddings.weight', c.type_vocab_size, d);
  norm('embeddings.LayerNorm');
  for (let k = 0; k < c.num_hidden_layers; k++) {
    const at = `encoder.layer.${k}`;
    for (const p of ['self.query', 'self.key', 'self.value', 'output.dense']) dense(`${at}.attention.${p}`, d, d);
    norm(`${at}.attention.output.LayerNorm`);
    dense(`${at}.intermediate.dense`, f, d);
    dense(`${at}.output.dense`, d, f);
    norm(`${at}.output.LayerNorm`);
  }
  return all;
}

/** Writes the folder's three files; `change` may alter config and tensors first. */
export async function writeTinyBert(
  folder: string,
  change: { readonly config?: Readonly<Record<string, unknown>>; readonly tensors?: ReadonlyMap<string, Writable> } = {},
): Promise<string> {
  await writeFile(join(folder, 'config.json'), JSON.stringify({ ...CONFIG, ...change.config }));
  await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(TOKENIZER));
  await writeSafetensors(join(folder, 'model.safetensors'), change.tensors ?? tinyTensors());
  return folder;
}
