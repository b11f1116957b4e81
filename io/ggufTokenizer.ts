// The tokenizer in a GGUF file's metadata: rebuilt as the tokenizer.json of Hugging Face's library, which then does the work.
import type { MetadataValue } from '@huggingface/gguf';
import { Tokenizer } from '@huggingface/tokenizers';
import type { TextTokenizer } from './tokenizer.ts';

const bytes = (use_regex: boolean): object => ({ type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex });
const split = (Regex: string): object => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false });
/**
 * How a text is cut before pairs are merged, by the file's name for it: always as bytes, GPT-2's way; SmolLM has every digit alone, ² and ½ too. Qwen2 has a way of its own:
 * digits alone, a sign may lead a word, lines end where they break.
 */
const CUTS: ReadonlyMap<string, readonly object[]> = new Map([
  ['gpt-2', [bytes(true)]],
  ['smollm', [split('\\p{N}'), bytes(true)]],
  [
    'qwen2',
    [
      split(
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
      ),
      bytes(false),
    ],
  ],
]);
/** Kinds of tokens in `tokenizer.ggml.token_type` that stand for themselves in a text: control tokens, and a user's own. */
const WHOLE: ReadonlySet<unknown> = new Set([3, 4]);

export interface GgufTokenizer extends TextTokenizer {
  /** The text of ids; control tokens are left out unless `special`. */
  decode(ids: readonly number[], special?: boolean): string;
  /** The token that ends an answer, or null. */
  readonly end: number | null;
}

/** Byte-level BPE from a file's metadata. A text longer than `longest` ids loses its end. Throws for other kinds of tokenizers. */
export function ggufTokenizer(metadata: ReadonlyMap<string, MetadataValue>, longest: number, file: string): GgufTokenizer {
  const refuse = (what: string): never => {
    throw new Error(`${file}: ${what}`);
  };
  const texts = (key: string): readonly string[] => {
    const v = metadata.get(key);
    const list: readonly unknown[] = Array.isArray(v) ? v : [null];
    return list.every((t) => typeof t === 'string') ? list : refuse(`${key} must be a list of texts`);
  };
  const kind = metadata.get('tokenizer.ggml.model');
  if (kind !== 'gpt2') refuse(`tokenizer.ggml.model is ${JSON.stringify(kind) ?? 'missing'}; only byte-level BPE (gpt2) can be read`);
  const pre = metadata.get('tokenizer.ggml.pre') ?? 'gpt-2';
  const cut = CUTS.get(String(pre)) ?? refuse(`tokenizer.ggml.pre is ${JSON.stringify(pre)}; known are ${[...CUTS.keys()].join(', ')}`);
  const tokens = texts('tokenizer.ggml.tokens');
  const vocabulary = new Map(tokens.map((t, id) => [t, id]));
  const merges = texts('tokenizer.ggml.merges').map((m, k) => {
    const parts = m.split(' ');
    const made = parts.length === 2 && [...parts, parts.join('')].every((t) => vocabulary.has(t));
    return made ? parts : refuse(`tokenizer.ggml.merges: merge ${k}, ${JSON.stringify(m)}, is not two tokens whose union is a token`);
  });
  const types = metadata.get('tokenizer.ggml.token_type') ?? [];
  if (!Array.isArray(types) || (types.length > 0 && types.length !== tokens.length))
    refuse(`tokenizer.ggml.token_type must have one kind for each of the ${tokens.length} tokens`);
  const id = (name: string): number | null => {
    const v = metadata.get(`tokenizer.ggml.${name}`) ?? null;
    if (v !== null && !(typeof v === 'number' && Number.isInteger(v) && v >= 0 && v < tokens.length))
      refuse(`tokenizer.ggml.${name} is ${v}; the tokens are 0 … ${tokens.length - 1}`);
    return v as number | null;
  };
  const end = id('eos_token_id');
  const begin = metadata.get('tokenizer.ggml.add_bos_token') === true ? id('bos_token_id') : null;
  const whole = tokens.flatMap((content, k) => (WHOLE.has((types as readonly unknown[])[k]) ? [{ id: k, content }] : []));
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  const tokenizer = new Tokenizer(
    {
      model: { type: 'BPE', vocab: Object.fromEntries(vocabulary), merges },
      normalizer: null,
      pre_tokenizer: { type: 'Sequence', pretokenizers: cut },
      post_processor: null,
      decoder: bytes(true),
      added_tokens: whole.map((t) => ({ ...t, ...flags })),
    },
    {},
  );
  const ids = (text: string): number[] => [
    ...(begin === null ? [] : [begin]),
    ...tokenizer.encode(text, { add_special_tokens: false }).ids,
  ];
  return {
    longest,
    end,
    encode: (text) => Int32Array.from(ids(text).slice(0, longest)),
    plain: (text) => Int32Array.from(tokenizer.encode(text, { add_special_tokens: false }).ids),
    decode: (list, special = false) =>
      list.length === 0 ? '' : tokenizer.decode([...list], { skip_special_tokens: !special, clean_up_tokenization_spaces: false }),
  };
}
