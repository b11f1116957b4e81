// GGUF: every block format against the Python package `gguf`; a LLaMA that its writer wrote; and files that are not what they say.
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { openGguf } from '../../io/gguf.ts';
import { BLOCK_FORMATS, decodeBlocks } from '../../io/ggufBlocks.ts';
import { type GgufError, readGgufHeader, walkHeader } from '../../io/ggufHeader.ts';
import { ggufConfig, pairsApart, readGgufModel } from '../../io/ggufLlama.ts';
import { packedWeight } from '../../io/ggufPacked.ts';
import { ggufTokenizer } from '../../io/ggufTokenizer.ts';
import { context } from '../../nn/context.ts';
import { params } from '../../nn/tree.ts';
import { int8 } from '../../quant/int8.ts';
import { packedPaths, residentBytes } from '../../quant/quantize.ts';
import { fixture, off, rows, type Table } from '../oracle/fixtures.ts';
import { checkMutations, readAll } from './hostileGguf.ts';

interface Case {
  readonly id: number;
  readonly numbers: number;
  readonly bytes: number;
  readonly packed: string;
  readonly values: readonly number[];
}
const path = join(import.meta.dirname, '../oracle/fixtures/tiny-llama.gguf');
const tiny = new Uint8Array(readFileSync(path));
const headerEnd = walkHeader(tiny, tiny.length, 'tiny')!.end;
let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tinypeft-gguf-'));
});
afterAll(() => rm(folder, { recursive: true }));

const blocks = fixture<{ readonly formats: Readonly<Record<string, Case>> }>('gguf-blocks').formats;
test('every format has a fixture', () => expect(BLOCK_FORMATS.map((f) => f.name).sort()).toEqual(Object.keys(blocks).sort()));
test.each(BLOCK_FORMATS)('$name unpacks bit for bit', (f) => {
  const c = blocks[f.name]!;
  expect([f.id, f.numbers, f.bytes]).toEqual([c.id, c.numbers, c.bytes]);
  const bytes = new Uint8Array(Buffer.from(c.packed, 'hex'));
  expect(decodeBlocks(bytes, f)).toEqual(Float32Array.from(c.values));
  expect(() => decodeBlocks(bytes.subarray(1), f)).toThrow(f.bytes === 1 ? '' : 'no whole blocks');
});

test.each(['Q8_0', 'Q4_0', 'Q4_1', 'F16', 'BF16'])('%s kept packed is the same matrix', async (name) => {
  const f = BLOCK_FORMATS.find((b) => b.name === name)!;
  const [rows, cols] = [3, 2 * f.numbers];
  const r = rng(7);
  const bytes = Uint8Array.from({ length: 6 * f.bytes }, () => r.below(256));
  const halves = { Q8_0: 1, Q4_0: 1, Q4_1: 2, F16: 1, BF16: 1 }[name]!;
  for (let k = 0; k < 6; k++)
    for (let h = 0; h < halves; h++) bytes[k * f.bytes + 2 * h + 1] = 0x28 + r.below(16) + (r.below(2) === 0 ? 0 : 128); // about ±0.03 … 4
  if (name.startsWith('Q4')) bytes.fill(0, 2 * f.bytes, 2 * f.bytes + 2); // a block whose scale is 0
  const wanted = decodeBlocks(bytes, f);
  const layer = packedWeight(bytes, [rows, cols], f)!;
  const got = await float64().read(layer());
  const worst = Array.from(got).reduce((d, v, i) => Math.max(d, Math.abs(v - wanted[i]!)), 0);
  expect(worst).toBeLessThanOrEqual(name === 'Q4_1' ? 3e-6 : 0); // z is rounded; the numbers go up to 60
  expect(residentBytes(layer)).toBeLessThan(bytes.length * 1.9 + 4200); // scales are float32 here; F16 and BF16 have tables
  expect(packedWeight(bytes, [rows, cols], BLOCK_FORMATS.find((b) => b.name === 'Q6_K')!)).toBeNull();
});

describe("a LLaMA in GGUF, as llama.cpp's converter lays it out", () => {
  test('has the logits of the reference implementation', async () => {
    const nn = fixture<{ readonly ids: number[][]; readonly mask: number[][]; readonly logits: Table }>('nn-llama');
    await using file = await openGguf(path);
    const { model, config } = await readGgufModel(file);
    expect(config).toMatchObject({
      ...{ vocabulary: 13, width: 16, layers: 2, heads: 4, kvHeads: 2, inner: 24 },
      tied: false,
      positions: 12,
    });
    expect(params(model).size).toBe(0); // frozen
    const y = await float64().read(model({ ids: rows(nn.ids), keyMask: rows(nn.mask) }, context(6)));
    expect(off(y, nn.logits)).toBeLessThan(1e-5); // the fixture's weights are rounded to float32
  });
  test('whose rows stand the other way round answers something else', () => {
    const w = Uint8Array.from({ length: 16 }, (_, k) => k); // two heads of four rows, two columns
    expect([...pairsApart(w, 8, 2)]).toEqual([0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]);
  });
  test('is packed as it is read, where asked', async () => {
    await using file = await openGguf(path);
    const { model } = await readGgufModel(file, { quantize: { where: (p) => p.endsWith('attn.q.weight'), scheme: int8({ block: 16 }) } });
    expect(packedPaths(model)).toEqual(['trunk.blocks.0.attn.q.weight', 'trunk.blocks.1.attn.q.weight']);
    const nn = fixture<{ readonly ids: number[][]; readonly mask: number[][]; readonly logits: Table }>('nn-llama');
    const y = await float64().read(model({ ids: rows(nn.ids), keyMask: rows(nn.mask) }, context(6)));
    expect(off(y, nn.logits)).toBeLessThan(0.05);
  });
  test('has a tokenizer', async () => {
    await using file = await openGguf(path);
    const t = ggufTokenizer(file.metadata, 6, path);
    expect([...t.encode('abc a12<own>')]).toEqual([9, 10, 4, 5, 12]); // a digit stands alone, a user's token is whole
    expect([...t.encode('abc\nabc')]).toEqual([9, 7, 9]);
    expect(t.encode('abababababab')).toHaveLength(6);
    expect([t.decode([9, 10, 4, 5, 12, 0]), t.decode([9, 0], true), t.decode([]), t.end]).toEqual(['abc a12', 'abc<|end|>', '', 0]);
  });
});

describe('a Qwen2 in GGUF', () => {
  const qwen = join(import.meta.dirname, '../oracle/fixtures/tiny-qwen2.gguf');
  const theirs = fixture<{
    readonly ids: number[][];
    readonly logits: Table;
    readonly texts: readonly { readonly text: string; readonly ids: number[] }[];
  }>('gguf-qwen2');
  test('has the logits that transformers reads in it: biases, and rows of q and k where they are', async () => {
    await using file = await openGguf(qwen);
    const { model, config, architecture } = await readGgufModel(file);
    expect([architecture, config.bias]).toEqual(['qwen2', { qkv: true, o: false, mlp: false }]);
    expect(packedPaths(model)).toHaveLength(16); // halves stay halves: 14 layers, the embedding and the head
    const y = await float64().read(model({ ids: rows(theirs.ids) }, context(8)));
    expect(off(y, theirs.logits)).toBeLessThan(2e-6); // norms and rotations are float32 there
  });
  test('whose rows were moved as those of a LLaMA would answer something else', async () => {
    await using file = await openGguf(qwen);
    const moved = {
      ...file,
      bytes: async (n: string) => (/attn_q\.weight/.test(n) ? pairsApart(await file.bytes(n), 32, 4) : file.bytes(n)),
      entry: (n: string) => file.entry(n),
    };
    const { model } = await readGgufModel(moved as typeof file);
    const y = await float64().read(model({ ids: rows(theirs.ids) }, context(8)));
    expect(off(y, theirs.logits)).toBeGreaterThan(1e-2);
  });
  test.each(theirs.texts)('cuts $text as transformers does', async ({ text, ids }) => {
    await using file = await openGguf(qwen);
    expect([...ggufTokenizer(file.metadata, 64, qwen).encode(text)]).toEqual(ids);
  });
});

describe('files that are not what they say', () => {
  const refused = (bytes: Uint8Array): Promise<GgufError> =>
    readAll(bytes).then(
      () => Promise.reject(new Error('was read')),
      (e) => e,
    );
  const at = (text: string): number => Buffer.from(tiny).indexOf(text);
  const changed = (place: number, bytes: readonly number[]): Uint8Array => {
    const b = tiny.slice();
    b.set(bytes, place);
    return b;
  };
  const tensor = (name: string): number =>
    walkHeader(tiny, tiny.length, '')!.tensors.find((t) =>
      Buffer.from(tiny)
        .toString('latin1', t + 8)
        .startsWith(name),
    )!;
  const norm = tensor('blk.0.attn_norm.weight');
  const shapeAt = norm + 8 + 22 + 4;

  test('cut anywhere, they are refused with the place', async () => {
    for (let n = 0; n < tiny.length; n += n < headerEnd ? 41 : 997) {
      const e = await refused(tiny.subarray(0, n));
      expect([e.name, e.offset <= n], `${n}: ${e}`).toEqual(['GgufError', true]);
    }
    await writeFile(join(folder, 'cut.gguf'), tiny.subarray(0, 1000));
    await expect(openGguf(join(folder, 'cut.gguf'))).rejects.toThrow(/cut\.gguf, byte \d+: .*(truncated|at most)/);
  });
  test.each([
    ['another format', changed(0, [0x50, 0x4b, 3, 4]), /byte 0: does not start with GGUF/],
    ['version 1', changed(4, [1]), /byte 4: has version 1; versions 2 and 3 can be read/],
    ['big-endian', changed(4, [0, 0, 0, 3]), /big-endian/],
    ['2⁶⁰ tensors', changed(8, [0, 0, 0, 0, 0, 0, 0, 16]), /byte 8: the number of tensors is 1152921504606846976; at most \d+ can be here/],
    ['2⁶⁰ keys', changed(16, [0, 0, 0, 0, 0, 0, 0, 16]), /byte 16: the number of metadata keys/],
    ['a text of 2 GB', changed(at('tiny') - 8, [0, 0, 0, 128]), /the length of general\.name is 2147483648/],
    [
      'a list of 10⁹',
      changed(at('tokenizer.ggml.tokens') + 29, [0, 202, 154, 59]),
      /the number of items of tokenizer\.ggml\.tokens is 1000000000; at most \d+/,
    ],
    ['a list of unknown type', changed(at('tokenizer.ggml.tokens') + 25, [99]), /is a list of type 99/],
    ['a value of unknown type', changed(at('general.name') + 12, [77]), /general\.name has type 77/],
    ['a shape of 2⁴⁰', changed(shapeAt, [0, 0, 0, 0, 0, 1]), /(cannot be parsed|beyond the file)/],
    ['an empty shape', changed(shapeAt, [0]), /has shape \[0\]/],
    ['an unknown format', changed(shapeAt + 8, [19]), /"blk\.0\.attn_norm\.weight" is stored in format 19; known are 0 \(F32\)/],
    ['no whole blocks', changed(shapeAt + 8, [12]), /rows of 16 numbers, which are no whole blocks of 256 \(Q4_K\)/],
    ['an odd place', changed(shapeAt + 12, [1]), /no multiple of the alignment 32/],
    ['two tensors in one place', changed(shapeAt + 12, [0, 0, 0, 0]), /overlaps/],
  ])('%s', async (_, bytes, reason) => {
    const e = await refused(bytes);
    expect(e.name === 'GgufError' ? '' : String(e)).toBe('');
    expect(e.message).toMatch(reason);
  });
  test('a key given twice, or a prototype key, is refused', async () => {
    const kv = (key: string): Buffer => {
      const b = Buffer.alloc(8 + key.length + 5);
      b.writeBigUInt64LE(BigInt(key.length));
      b.write(key, 8);
      b.writeUInt32LE(7, 8 + key.length);
      return b;
    };
    const file = (...keys: string[]): Buffer => {
      const head = Buffer.from('GGUF\x03\0\0\0'.padEnd(24, '\0'), 'latin1');
      head.writeBigUInt64LE(BigInt(keys.length), 16);
      return Buffer.concat([head, ...keys.map(kv)]);
    };
    const read = (b: Buffer) => readGgufHeader(async (from, n) => b.subarray(from, from + n), b.length, 'mem');
    expect([...(await read(file('a', 'b'))).metadata.keys()]).toEqual(['a', 'b']);
    await expect(read(file('a', 'a'))).rejects.toThrow('byte 38: "a" appears twice');
    for (const key of ['__proto__', 'constructor', 'prototype']) await expect(read(file(key))).rejects.toThrow('is not allowed as a key');
    expect(({} as { polluted?: unknown }).polluted).toBeUndefined();
  });
  test('mutations', () => checkMutations(tiny, headerEnd, 60));
});

describe('models that the decoder does not describe are refused by name', () => {
  const change = async (key: string, value: string | number | undefined) => {
    await using file = await openGguf(path);
    const metadata = new Map(file.metadata);
    if (value === undefined) metadata.delete(key);
    else metadata.set(key, value);
    return () => ggufConfig({ ...file, metadata });
  };
  test.each([
    ['general.architecture', 'mamba', 'general.architecture is "mamba"; this loader knows llama and qwen2'],
    ['llama.block_count', 0, 'llama.block_count is 0; it must be a whole number from 1'],
    ['llama.block_count', undefined, 'llama.block_count is missing'],
    ['llama.attention.head_count', 3, 'llama.embedding_length 16 does not divide into 3 heads'],
    ['llama.attention.head_count_kv', 3, 'does not divide among 3 key heads'],
    ['llama.rope.dimension_count', 2, 'llama.rope.dimension_count is 2, but heads are 4 wide'],
    ['llama.rope.scaling.type', 'yarn', 'llama.rope.scaling.type is "yarn"; known are none and linear'],
    ['llama.expert_count', 8, 'mixture of experts'],
  ])('%s = %s', async (key, value, reason) => expect(await change(key, value)).toThrow(reason));
  test('stretched positions are scaled', async () => {
    await using file = await openGguf(path);
    const metadata = new Map([...file.metadata, ['llama.rope.scaling.type', 'linear'], ['llama.rope.scaling.factor', 4]] as const);
    expect(ggufConfig({ ...file, metadata }).sizes.rope).toEqual({ base: 10000, scale: 0.25 });
  });
  test('missing, unknown and misshapen tensors are named together', async () => {
    await using file = await openGguf(path);
    const entries = new Map(file.entries);
    entries.set('extra', { ...entries.get('output_norm.weight')!, name: 'extra' });
    entries.set('output_norm.weight', { ...entries.get('output_norm.weight')!, shape: [15] });
    entries.delete('blk.1.ffn_up.weight');
    await expect(readGgufModel({ ...file, entries })).rejects.toThrow(
      /output_norm\.weight is \[15\].*\[16\]\n.*missing: blk\.1\.ffn_up\.weight\n.*unknown: extra/s,
    );
  });
});
