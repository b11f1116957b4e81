// Safetensors: what is written is read back bit for bit; whatever is malformed is refused with file, byte and reason.
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { rng } from '../../core/rng.ts';
import type { Data } from '../../core/tensor.ts';
import { openSafetensors, readSafetensors, writeSafetensors } from '../../io/files.ts';
import { DTYPES, type Dtype, decodeNumbers, encodeNumbers, floatToHalf, halfToFloat } from '../../io/numbers.ts';
import { encode, headerLength, parseHeader, SafetensorsError, type Writable } from '../../io/safetensors.ts';

let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tinypeft-io-'));
});
afterAll(() => rm(folder, { recursive: true }));

const joined = (pieces: Iterable<Uint8Array>): Uint8Array => Buffer.concat([...pieces]);
const raw = (d: Data): Uint8Array => new Uint8Array(d.buffer, d.byteOffset, d.byteLength);

/** Header and tensors of bytes in memory, through the same checks as a file. */
function parseAll(bytes: Uint8Array): Map<string, string> {
  const n = headerLength(bytes.subarray(0, 8), bytes.length, 'mem');
  const { entries } = parseHeader(bytes.subarray(8, 8 + n), bytes.length, 'mem');
  return new Map(
    [...entries.values()].map((e) => {
      const b = bytes.subarray(e.start, e.end);
      decodeNumbers(b, e.dtype);
      return [e.name, `${e.dtype} ${e.shape} ${Buffer.from(b).toString('hex')}`];
    }),
  );
}

/** Random numbers that a dtype holds exactly. */
function numbersOf(dtype: Dtype, n: number, seed: number): Data {
  const r = rng(seed);
  const ints = (low: number, high: number): number[] => Array.from({ length: n }, () => low + r.below(high - low + 1));
  switch (dtype) {
    case 'F32':
      return r.normal(n);
    case 'F64':
      return Float64Array.from({ length: n }, () => r.next() - 0.5);
    case 'F16':
      return Float32Array.from(ints(0, 0x7bff), halfToFloat);
    case 'BF16':
      return new Float32Array(Uint32Array.from(ints(0, 0x7f7f), (h) => h << 16).buffer);
    case 'I8':
      return Int8Array.from(ints(-128, 127));
    case 'U8':
      return Uint8Array.from(ints(0, 255));
    case 'BOOL':
      return Uint8Array.from(ints(0, 1));
    case 'I16':
      return Int32Array.from(ints(-32768, 32767));
    case 'I32':
      return Int32Array.from(ints(-(2 ** 31), 2 ** 31 - 1));
    case 'I64':
      return Float64Array.from({ length: n }, () => Math.trunc((r.next() - 0.5) * 2 * Number.MAX_SAFE_INTEGER));
    default:
      return dtype satisfies never;
  }
}

const anyName = fc.string({ maxLength: 12 }).filter((s) => !['__proto__', 'constructor', 'prototype', '__metadata__'].includes(s));
const anyTensors = fc
  .dictionary(
    anyName,
    fc.record({ dtype: fc.constantFrom(...DTYPES), shape: fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 3 }), seed: fc.integer() }),
    { maxKeys: 5 },
  )
  .map(
    (d) =>
      new Map<string, Writable & { dtype: Dtype }>(
        Object.entries(d).map(([name, { dtype, shape, seed }]) => [
          name,
          {
            dtype,
            shape,
            data: numbersOf(
              dtype,
              shape.reduce((a, b) => a * b, 1),
              seed,
            ),
          },
        ]),
      ),
  );

describe('round trip', () => {
  test('write, read: every dtype, name and shape comes back bit for bit, with the metadata', async () => {
    const path = join(folder, 'a.safetensors');
    await fc.assert(
      fc.asyncProperty(anyTensors, fc.dictionary(anyName, fc.string(), { maxKeys: 3 }), async (tensors, meta) => {
        await writeSafetensors(path, tensors, new Map(Object.entries(meta)));
        const back = await readSafetensors(path);
        expect(new Map(back.metadata)).toEqual(new Map(Object.entries(meta)));
        expect([...back.tensors.keys()].sort()).toEqual([...tensors.keys()].sort());
        for (const [name, t] of tensors) {
          const b = back.tensors.get(name)!;
          expect([b.dtype, b.shape]).toEqual([t.dtype, t.shape]);
          expect(raw(b.data)).toEqual(raw(t.data));
        }
      }),
      { numRuns: 40 },
    );
  });

  test('the same tensors in another order give the same bytes; data starts at a multiple of 8', () => {
    fc.assert(
      fc.property(anyTensors, (tensors) => {
        const bytes = joined(encode(tensors));
        expect(joined(encode(new Map([...tensors].reverse())))).toEqual(bytes);
        expect(headerLength(bytes, bytes.length, 'mem') % 8).toBe(0);
      }),
    );
  });

  test('a known file, byte for byte', () => {
    const json = '{"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"U8","shape":[],"data_offsets":[8,9]}}';
    const padded = json.padEnd(Math.ceil(json.length / 8) * 8);
    const expected = Buffer.concat([
      Buffer.from([padded.length, 0, 0, 0, 0, 0, 0, 0]),
      Buffer.from(padded),
      Buffer.from([0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0, 7]),
    ]);
    const tensors = new Map<string, Writable>([
      ['a', { data: Uint8Array.of(7), shape: [] }],
      ['b', { data: Float32Array.of(1, -2), shape: [2] }],
    ]);
    expect(Buffer.from(joined(encode(tensors)))).toEqual(expected);
  });

  test('only the tensor asked for is read', async () => {
    const path = join(folder, 'lazy.safetensors');
    await writeSafetensors(
      path,
      new Map([
        ['big', { data: new Float32Array(1e6), shape: [1e6] }],
        ['x', { data: Float32Array.of(3), shape: [1] }],
      ]),
    );
    await using file = await openSafetensors(path);
    expect(await file.read('x')).toEqual(Float32Array.of(3));
    await expect(file.read('y')).rejects.toThrow('has no tensor y; it has');
  });
});

describe('half precision', () => {
  const bits = (v: number): number => new Uint32Array(Float32Array.of(v).buffer)[0]!;
  test('every half survives a round trip; every bfloat16 too', () => {
    for (let h = 0; h < 65536; h++) {
      const v = halfToFloat(h);
      if (Number.isNaN(v)) continue;
      if (floatToHalf(v) !== h) throw new Error(`half ${h}: ${v} came back as ${floatToHalf(v)}`);
    }
    const all = Uint16Array.from({ length: 65536 }, (_, k) => k).filter((k) => (k & 0x7fff) <= 0x7f80);
    expect(encodeNumbers(decodeNumbers(raw(all as unknown as Data), 'BF16'), 'BF16', 'x')).toEqual(raw(all as unknown as Data));
  });
  test('rounds to nearest, ties to even', () => {
    const half = fc.integer({ min: 0, max: 0x7bfe });
    fc.assert(
      fc.property(half, (h) => {
        const [low, high] = [halfToFloat(h), halfToFloat(h + 1)];
        expect(floatToHalf((low + high) / 2)).toBe(h % 2 === 0 ? h : h + 1);
        expect(floatToHalf(low + (high - low) * 0.49)).toBe(h);
        expect(floatToHalf(low + (high - low) * 0.51)).toBe(h + 1);
      }),
    );
    expect([floatToHalf(65519), floatToHalf(65520), floatToHalf(-1e9)]).toEqual([0x7bff, 0x7c00, 0xfc00]);
    const b = (v: number): number => new Uint16Array(encodeNumbers(Float32Array.of(v), 'BF16', 'x').slice().buffer)[0]!;
    expect([b(1), b(1 + 2 ** -8), b(1 + 3 * 2 ** -8), b(1 + 2 ** -8 + 2 ** -20)]).toEqual([0x3f80, 0x3f80, 0x3f82, 0x3f81]);
    expect(bits(1) >>> 16).toBe(0x3f80);
  });
});

/** A file with this header text and so many bytes of data. */
const file = (header: string, data = 0, claimed?: bigint): Uint8Array => {
  const json = new TextEncoder().encode(header);
  const out = new Uint8Array(8 + json.length + data);
  new DataView(out.buffer).setBigUint64(0, claimed ?? BigInt(json.length), true);
  out.set(json, 8);
  return out;
};
const one = (dtype: unknown, shape: unknown, offsets: unknown): string => JSON.stringify({ w: { dtype, shape, data_offsets: offsets } });

describe('malformed files', () => {
  const cases: readonly (readonly [what: string, bytes: Uint8Array, offset: number, reason: string])[] = [
    ['empty', new Uint8Array(0), 0, 'the file has 0 bytes'],
    ['seven bytes', new Uint8Array(7), 7, 'the file has 7 bytes'],
    ['header longer than the file', file('{}', 0, 500n), 0, 'claims a header of 500 bytes, but only 2 follow'],
    ['header above 100 MB', file('{}', 0, 100_000_001n), 0, 'the most allowed is 100000000'],
    ['header of 2⁶⁴ − 1', file('{}', 0, 2n ** 64n - 1n), 0, 'the most allowed is 100000000'],
    ['header of 1 byte', file('{', 0), 0, 'the smallest one'],
    ['not JSON', file('{"w":}'), 8, 'the header is not JSON'],
    ['a list', file('[{}]'), 8, 'must start with {'],
    [
      'not UTF-8',
      (() => {
        const f = file('{"w":1}');
        f[10] = 0xff;
        return f;
      })(),
      8,
      'not UTF-8',
    ],
    ['entry not an object', file('{"w":3}'), 9, '"w" must be an object'],
    ['unknown dtype', file(one('F8', [1], [0, 1]), 1), 9, '"w" has dtype "F8"; known are BOOL, U8'],
    ['dtype from the prototype', file(one('toString', [1], [0, 1]), 1), 9, 'has dtype "toString"'],
    ['no dtype', file('{"w":{"shape":[1],"data_offsets":[0,4]}}', 4), 9, 'has dtype missing'],
    ['negative dimension', file(one('F32', [-1], [0, 4]), 4), 9, 'has shape [-1]'],
    ['fractional dimension', file(one('F32', [0.5], [0, 4]), 4), 9, 'has shape [0.5]'],
    ['huge dimension', file(one('F32', [2 ** 40, 2 ** 40], [0, 4]), 4), 9, 'has 4 bytes, but F32'],
    ['negative offset', file(one('F32', [1], [-4, 0]), 4), 9, 'two whole numbers'],
    ['one offset', file(one('F32', [1], [4]), 4), 9, 'two whole numbers'],
    ['backwards offsets', file(one('F32', [1], [4, 0]), 4), 9, 'outside the 4 bytes'],
    ['offset past the end', file(one('F32', [2], [0, 8]), 4), 9, 'outside the 4 bytes of data'],
    ['shape × size ≠ bytes', file(one('F32', [2], [0, 4]), 4), 9, 'has 4 bytes, but F32 [2] needs 8'],
    ['unknown key', file('{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}', 4), 9, 'unknown key "x"'],
    [
      'overlap',
      file('{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}', 3),
      61,
      '"b" starts at data byte 1, but the tensor before it ends at 2: they overlap',
    ],
    [
      'gap',
      file('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}', 3),
      61,
      'a gap',
    ],
    ['gap before the first', file(one('U8', [1], [1, 2]), 2), 9, 'a gap'],
    ['bytes of nobody at the end', file(one('U8', [1], [0, 1]), 3), 8 + one('U8', [1], [0, 1]).length + 1, '2 bytes after the last tensor'],
    [
      'a name twice',
      file('{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1),
      61,
      'the key "w" appears twice',
    ],
    [
      'a name twice, once escaped',
      file('{"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\\u0077":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
      61,
      'appears twice',
    ],
    ['dtype twice', file('{"w":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', 1), 27, 'the key "dtype" appears twice'],
    ['__proto__', file('{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1), 9, 'the key "__proto__" is not allowed'],
    ['__proto__ in the metadata', file('{"__metadata__":{"__proto__":"x"}}'), 25, 'is not allowed'],
    ['metadata not texts', file('{"__metadata__":{"a":1}}'), 9, 'holds a, which is not a text'],
    ['metadata a list', file('{"__metadata__":[]}'), 9, 'must be an object of texts'],
    ['deep nesting', file(`{"w":${'['.repeat(50000)}`), 15, 'more than three levels'],
  ];
  test.each(cases)('%s', async (what, bytes, offset, reason) => {
    const path = join(folder, 'bad.safetensors');
    await writeFile(path, bytes);
    const e = await openSafetensors(path).then(
      () => null,
      (x: unknown) => x,
    );
    expect(e, what).toBeInstanceOf(SafetensorsError);
    const error = e as SafetensorsError;
    expect(error.message).toContain(reason);
    expect(error.message).toContain(`${path}, byte ${offset}`);
    expect(error.offset).toBe(offset);
  });

  test('every truncation of a good file is refused', () => {
    const bytes = joined(
      encode(
        new Map([
          ['w', { data: Float32Array.of(1, 2, 3), shape: [3] }],
          ['b', { data: Int8Array.of(1), shape: [1] }],
        ]),
      ),
    );
    for (let n = 0; n < bytes.length; n++) expect(() => parseAll(bytes.subarray(0, n)), `cut to ${n}`).toThrow(SafetensorsError);
  });

  test('every mutation of a file is an error, or tensors that are exactly the bytes behind the header', () => {
    const good = joined(
      encode(
        new Map<string, Writable>([
          ['w', { data: Float32Array.of(1, 2, 3, 4), shape: [2, 2] }],
          ['b', { data: Int8Array.of(1, 2, 3), shape: [3] }],
        ]),
        new Map([['format', 'pt']]),
      ),
    );
    const n = headerLength(good, good.length, 'mem');
    let accepted = 0;
    const byte = fc.oneof(
      fc.integer({ min: 0, max: 255 }),
      fc.constantFrom(...[...'0123456789{}[]",:-.eE \\'].map((c) => c.charCodeAt(0))),
    );
    const edit = fc.record({
      at: fc.nat({ max: 8 + n - 1 }),
      kind: fc.constantFrom('set', 'insert', 'delete', 'copy'),
      byte,
      length: fc.integer({ min: 1, max: 12 }),
    });
    fc.assert(
      fc.property(fc.array(edit, { minLength: 1, maxLength: 3 }), fc.boolean(), (edits, repair) => {
        const mutant = edits.reduce<number[]>(
          (b, e) => {
            if (e.kind === 'set') return b.with(e.at, e.byte);
            if (e.kind === 'insert') return b.toSpliced(e.at, 0, e.byte);
            return e.kind === 'delete' ? b.toSpliced(e.at, e.length) : b.toSpliced(e.at, 0, ...b.slice(e.at, e.at + e.length));
          },
          [...good],
        );
        const bytes = Uint8Array.from(mutant);
        if (repair && bytes.length > 8)
          new DataView(bytes.buffer).setBigUint64(0, BigInt(Math.max(0, n + bytes.length - good.length)), true);
        try {
          // Renaming or reshaping a tensor is lawful; but what is accepted is exactly the bytes behind the header, each once.
          const m = headerLength(bytes.subarray(0, 8), bytes.length, 'mem');
          const { entries } = parseHeader(bytes.subarray(8, 8 + m), bytes.length, 'mem');
          parseAll(bytes);
          const inOrder = [...entries.values()].sort((x, y) => x.start - y.start || x.end - y.end);
          expect(joined(inOrder.map((e) => bytes.subarray(e.start, e.end)))).toEqual(Buffer.from(bytes.subarray(8 + m)));
          accepted++;
        } catch (e) {
          if (!(e instanceof SafetensorsError)) throw e;
        }
      }),
      { numRuns: 3000 },
    );
    expect(accepted).toBeGreaterThan(0); // else the law above said nothing
  });

  test('an I64 beyond ±2^53 is refused with its place', async () => {
    const bytes = file(one('I64', [2], [0, 16]), 16);
    new DataView(bytes.buffer).setBigInt64(bytes.length - 8, 2n ** 53n, true);
    const path = join(folder, 'i64.safetensors');
    await writeFile(path, bytes);
    await using f = await openSafetensors(path);
    await expect(f.read('w')).rejects.toThrow(`byte ${bytes.length - 8}: "w": element 1 is 9007199254740992, beyond ±2^53`);
  });

  test('a file cut while it is open is refused', async () => {
    const path = join(folder, 'cut.safetensors');
    await writeSafetensors(path, new Map([['w', { data: new Float32Array(1000), shape: [1000] }]]));
    await using f = await openSafetensors(path);
    await writeFile(path, (await readFile(path)).subarray(0, 500));
    await expect(f.read('w')).rejects.toThrow('was cut while it was read');
  });

  test('numbers a type cannot hold are refused when written', () => {
    const write = (dtype: Dtype, v: number) => () => joined(encode(new Map([['w', { data: Float64Array.of(0, v), shape: [2], dtype }]])));
    for (const [dtype, v] of [
      ['I8', 128],
      ['U8', -1],
      ['I32', 2 ** 31],
      ['I64', 2 ** 53],
      ['I8', 0.5],
      ['I32', Number.NaN],
    ] as const)
      expect(write(dtype, v)).toThrow(`w[1] is ${v}, which ${dtype} cannot hold`);
    expect(() => joined(encode(new Map([['__proto__', { data: Int8Array.of(1), shape: [1] }]])))).toThrow('cannot be called __proto__');
    expect(() => joined(encode(new Map(), new Map([['__proto__', 'x']])))).toThrow('metadata key cannot be called __proto__');
    expect(() => joined(encode(new Map([['w', { data: Int8Array.of(1), shape: [2] }]])))).toThrow('has 1 numbers, but [2] needs 2');
  });
});
