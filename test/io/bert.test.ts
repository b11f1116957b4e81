// Pretrained encoders from folders: the same answers as Hugging Face's implementation, and every misfit by name.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openEncoder } from '../../cli/task.ts';
import { float64 } from '../../core/engines/float64.ts';
import { openEngine } from '../../core/open.ts';
import { size } from '../../core/shape.ts';
import { leaf, paramOf } from '../../core/tensor.ts';
import { batchOf } from '../../io/batches.ts';
import { readBert } from '../../io/bert.ts';
import { parseConfig } from '../../io/checkpoints/architectures.ts';
import { writeSafetensors } from '../../io/files.ts';
import { decodeNumbers, encodeNumbers, halfToFloat } from '../../io/numbers.ts';
import type { Writable } from '../../io/safetensors.ts';
import { readTokenizer } from '../../io/tokenizer.ts';
import { context } from '../../nn/context.ts';
import { pool } from '../../nn/heads.ts';
import { tensors } from '../../nn/tree.ts';
import { fixture, off, rows, type Table } from '../oracle/fixtures.ts';
import { CONFIG, TOKENIZER, tinyTensors, WORDS, writeTinyBert } from './tinyBert.ts';

let root = '';
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'tinypeft-bert-'));
});
afterAll(() => rm(root, { recursive: true }));
const folder = (): Promise<string> => mkdtemp(join(root, 'm-'));

describe('all-MiniLM-L6-v2 against sentence-transformers', () => {
  const wanted = fixture<{ sentences: string[]; ids: number[][]; vectors: Table }>('minilm');

  test('ids, and mean-pooled embeddings of one padded batch', async () => {
    const { model, tokenizer } = await openEncoder(null);
    const all = [...tensors(model)];
    expect(all.every(({ tensor }) => paramOf(tensor) === null)).toBe(true);
    expect(all.reduce((n, { tensor }) => n + size(tensor.shape), 0)).toBe(22_565_376); // 22.7 M with the pooler's 147,840
    const ids = wanted.sentences.map((s) => tokenizer.encode(s));
    expect(ids.map((i) => Array.from(i))).toEqual(wanted.ids);

    const b = batchOf(
      ids.map((i) => ({ ids: i, label: 0 })),
      8,
    );
    const keyMask = leaf(b.keyMask.data, b.keyMask.shape);
    const h = model({ ids: leaf(b.ids.data, b.ids.shape), keyMask }, context(b.ids.shape[1]!));
    await using engine = await openEngine();
    const got = await engine.read(pool(h, keyMask, 'mean'));
    const width = wanted.vectors.shape[1]!;
    for (const k of ids.keys()) {
      const [ours, theirs] = [got.slice(k * width, (k + 1) * width), wanted.vectors.data.slice(k * width, (k + 1) * width)];
      const dot = (a: ArrayLike<number>, c: ArrayLike<number>): number => Array.from(a).reduce((s, v, i) => s + v * c[i]!, 0);
      expect(dot(ours, theirs) / Math.sqrt(dot(ours, ours) * dot(theirs, theirs)), wanted.sentences[k]).toBeGreaterThan(0.999995); // weights rounded to halves
    }
  });
});

describe('checkpoints of transformers', () => {
  interface Fixture {
    readonly ids: number[][];
    readonly mask: number[][];
    readonly types: number[][] | null;
    readonly weights: Readonly<Record<string, Table>>;
    readonly hidden: Table;
  }
  test.each(['bert', 'roberta'] as const)('%s with a head: its prefix is taken off, its head left aside', async (kind) => {
    const f = fixture<Fixture>(`nn-${kind}`);
    const at = await folder();
    const held = new Map(
      Object.entries(f.weights).map(([name, t]): [string, Writable] => [name, { data: Float32Array.from(t.data), shape: t.shape }]),
    );
    held.set(`${kind}.embeddings.position_ids`, { data: Int32Array.of(0, 1), shape: [1, 2] });
    const offset = kind === 'roberta' ? 2 : 0;
    const config = {
      ...{ vocab_size: 13, hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2, num_attention_heads: 4, hidden_act: 'gelu' },
      ...{ model_type: kind, max_position_embeddings: 12 + offset, type_vocab_size: kind === 'bert' ? 2 : 1, pad_token_id: 1 },
      layer_norm_eps: kind === 'bert' ? 1e-12 : 1e-5,
    };
    await writeTinyBert(at, { config, tensors: held });
    const model = await readBert(at);
    const h = await float64().read(
      model({ ids: rows(f.ids), keyMask: rows(f.mask), types: f.types === null ? null : rows(f.types) }, context(f.ids[0]!.length)),
    );
    expect(off(h, f.hidden)).toBeLessThan(1e-5);
  });

  test('old names of norms', async () => {
    const at = await folder();
    const old = (name: string): string => name.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta');
    await writeTinyBert(at, { tensors: new Map([...tinyTensors()].map(([n, t]) => [old(n), t])) });
    const plain = await readBert(await writeTinyBert(await folder()));
    const answer = (m: typeof plain): ReturnType<ReturnType<typeof float64>['read']> =>
      float64().read(m({ ids: leaf([2, 4, 3], [1, 3]) }, context(3)));
    expect(await answer(await readBert(at))).toEqual(await answer(plain));
  });

  test('missing, unknown and misshapen tensors, all in one error', async () => {
    const held = tinyTensors();
    held.delete('encoder.layer.1.attention.self.query.weight');
    held.set('encoder.layer.2.output.dense.bias', { data: new Float32Array(8), shape: [8] });
    held.set('embeddings.LayerNorm.bias', { data: new Float32Array(4), shape: [4] });
    held.set('encoder.layer.0.output.dense.bias', { data: new Int32Array(8), shape: [8] });
    await expect(readBert(await writeTinyBert(await folder(), { tensors: held }))).rejects.toThrow(
      /model\.safetensors: these are not the weights config\.json describes:\n {2}missing: encoder\.layer\.1\.attention\.self\.query\.weight\n {2}unknown: encoder\.layer\.2\.output\.dense\.bias\n {2}embeddings\.LayerNorm\.bias is \[4\], by config\.json it should be \[8\]\n {2}encoder\.layer\.0\.output\.dense\.bias holds I32, not floating-point numbers$/,
    );
  });

  test('folders that are none', async () => {
    const empty = await folder();
    await expect(readBert(empty)).rejects.toThrow(/config\.json: no such file; a model folder holds/);
    await writeFile(join(empty, 'config.json'), JSON.stringify(CONFIG));
    await expect(readBert(empty)).rejects.toThrow(/holds no \.safetensors file/);
    for (const name of ['a', 'b']) await writeSafetensors(join(empty, `${name}.safetensors`), tinyTensors());
    await expect(readBert(empty)).rejects.toThrow(/several \.safetensors files \(a\.safetensors, b\.safetensors\)/);
  });

  test.each([
    ['[]', /is not a JSON object/],
    [{ model_type: 't5' }, /model_type is "t5"; this library knows gpt2, llama, qwen2, bert/],
    [{ position_embedding_type: 'relative_key' }, /position_embedding_type is "relative_key"; only "absolute" is supported/],
    [{ hidden_act: 'swish2' }, /hidden_act is "swish2"; known are gelu/],
    [{ hidden_size: 9 }, /hidden_size 9 does not divide into num_attention_heads 2/],
    [{ vocab_size: '16' }, /vocab_size is "16"; it must be a whole number/],
    [{ num_hidden_layers: null }, /num_hidden_layers is missing/],
    [{ layer_norm_eps: -1 }, /layer_norm_eps is -1/],
  ])('config.json with %j', (change, error) => {
    expect(() => parseConfig(typeof change === 'string' ? change : JSON.stringify({ ...CONFIG, ...change }), 'config.json')).toThrow(error);
  });
});

describe('tokenizers', () => {
  test('padding and truncation of tokenizer.json are ignored; long texts are cut before the last special token', async () => {
    const at = await writeTinyBert(await folder());
    const t = await readTokenizer(at, 8);
    const words = (text: string): string[] => Array.from(t.encode(text), (i) => WORDS[i]!);
    expect(words('I love')).toEqual(['[CLS]', 'i', 'love', '[SEP]']);
    expect(words('The phones is NOT good.')).toEqual(['[CLS]', 'the', 'phone', '##s', 'is', 'not', 'good', '[SEP]']); // the full stop is cut
    expect(words('zebra')).toEqual(['[CLS]', '[UNK]', '[SEP]']);
    expect(words('')).toEqual(['[CLS]', '[SEP]']);
    await writeFile(join(at, 'tokenizer.json'), '{"model":');
    await expect(readTokenizer(at, 8)).rejects.toThrow(/tokenizer\.json: is not a JSON object/);
  });
  test('words that are names of JavaScript objects', async () => {
    const at = await writeTinyBert(await folder());
    const vocab = { ...TOKENIZER.model.vocab, constructor: 16, prototype: 17 };
    await writeFile(join(at, 'tokenizer.json'), JSON.stringify({ ...TOKENIZER, model: { ...TOKENIZER.model, vocab } }));
    expect(Array.from((await readTokenizer(at, 8)).encode('constructor prototype toString'))).toEqual([2, 16, 17, 1, 3]);
  });
});

test('long arrays of halves widen as single ones do', () => {
  const bits = Uint16Array.from({ length: 70_000 }, (_, k) => k % 65536);
  const long = decodeNumbers(new Uint8Array(bits.buffer), 'F16');
  expect(long.length).toBe(70_000);
  expect(long.findIndex((v, k) => !Object.is(v, Math.fround(halfToFloat(bits[k]!))))).toBe(-1);
  expect(Array.from(decodeNumbers(encodeNumbers(Float32Array.of(1, -0.5), 'F16', 'x'), 'F16'))).toEqual([1, -0.5]);
});
