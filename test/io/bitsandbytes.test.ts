// Four-bit weights of the bitsandbytes package (test/oracle/bnb_files.py): read, unpacked, written again byte for byte, and packed here to the same bytes.
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { fourBitNames, fourBitParts, fourBitTensors, readFourBit } from '../../io/bitsandbytes.ts';
import { openCheckpoint } from '../../io/checkpoints/open.ts';
import { saveCheckpoint } from '../../io/checkpoints/save.ts';
import { openSafetensors, readSafetensors, writeSafetensors } from '../../io/files.ts';
import { context } from '../../nn/context.ts';
import { decoder, gpt2, llama, qwen2 } from '../../nn/decoder.ts';
import { bert, encoder } from '../../nn/encoder.ts';
import { freeze } from '../../nn/freeze.ts';
import { classifier } from '../../nn/heads.ts';
import { isLayer, type Layer, type Model } from '../../nn/layer.ts';
import { layers } from '../../nn/tree.ts';
import { doubleQuant } from '../../quant/doubleQuant.ts';
import { int8 } from '../../quant/int8.ts';
import { fp4, nf4 } from '../../quant/nf4.ts';
import { packedPaths, quantize } from '../../quant/quantize.ts';
import { fixture, off, rows, type Table } from '../oracle/fixtures.ts';

interface Case {
  readonly shape: readonly [number, number];
  readonly dequantized: Table; // every `step`th
  readonly step: number;
  readonly whole?: Table;
}
const { cases } = fixture<{ readonly cases: Readonly<Record<string, Case>> }>('bnb');
const fileOf = (name: string): string => join(import.meta.dirname, '..', 'oracle', 'fixtures', `bnb-${name}.safetensors`);
const NAME = 'layer.weight';
async function temporary<T>(use: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'bnb-'));
  try {
    return await use(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}
async function read(name: string): Promise<Layer<'weight'>> {
  await using file = await openSafetensors(fileOf(name));
  return await readFourBit(file, NAME); // before the file is closed
}
const again = (name: string, layer: Layer<'weight'>): Promise<Buffer> =>
  temporary(async (folder) => {
    const path = join(folder, 'x.safetensors');
    await writeSafetensors(path, fourBitTensors(NAME, layer, cases[name]!.shape), new Map([['format', 'pt']]));
    return readFile(path);
  });

test.each(Object.keys(cases))('%s: the numbers that the package unpacks, and its bytes again', async (name) => {
  const { shape, dequantized, step } = cases[name]!;
  const layer = await read(name);
  const w = layer();
  expect(w.shape).toEqual(shape);
  const numbers = (await float64().read(w)).filter((_, k) => k % step === 0);
  const largest = Math.max(...dequantized.data.map(Math.abs));
  expect(largest).toBeGreaterThan(0.1);
  expect(Math.max(...dequantized.data.map((v, k) => Math.abs(v - numbers[k]!)))).toBeLessThan(2 ** -23 * largest); // it rounds products to float32
  expect(Buffer.compare(await again(name, layer), await readFile(fileOf(name)))).toBe(0);
});

test.each(['nf4', 'fp4'] as const)('%s: the same weights packed here are the same bytes', async (name) => {
  const { shape, whole } = cases[name]!;
  const layer = { nf4, fp4 }[name]().pack(Float32Array.from(whole!.data), shape);
  expect(Buffer.compare(await again(name, layer), await readFile(fileOf(name)))).toBe(0);
});

test('packed here with double quantisation: what is read back unpacks to the same numbers', async () => {
  const layer = nf4({ block: 32, scales: doubleQuant() }).pack(
    Float32Array.from({ length: 640 }, (_, k) => Math.sin(k)),
    [20, 32],
  );
  await temporary(async (folder) => {
    const path = join(folder, 'x.safetensors');
    await writeSafetensors(path, fourBitTensors(NAME, layer, [20, 32]));
    await using file = await openSafetensors(path);
    expect(fourBitNames(file.entries.keys())).toEqual([NAME]);
    expect(fourBitParts(NAME, file.entries.keys()).length).toBe(5);
    expect(await float64().read((await readFourBit(file, NAME))())).toEqual(await float64().read(layer()));
  });
});

test('a checkpoint that transformers saved in four bits: its logits, and its linear layers stay packed', async () => {
  const folder = join(import.meta.dirname, '..', 'oracle', 'fixtures', 'bnb-llama');
  const { ids, logits } = JSON.parse(await readFile(join(folder, 'logits.json'), 'utf8')) as { ids: number[][]; logits: Table };
  const { model } = await openCheckpoint(folder);
  expect(packedPaths(model)).toHaveLength(14);
  expect(packedPaths(model)).toContain('trunk.blocks.1.mlp.down.weight');
  const got = await float64().read(model({ ids: rows(ids) }, context(5)));
  expect(off(got, logits)).toBeLessThan(1e-7); // both in double precision
});

test('and written again: the same file, byte for byte, and the same configuration', async () => {
  const folder = join(import.meta.dirname, '..', 'oracle', 'fixtures', 'bnb-llama');
  const opened = await openCheckpoint(folder);
  await temporary(async (at) => {
    const { files, bytes } = await saveCheckpoint(opened.model, join(at, 'x'), { from: opened });
    expect(files).toEqual(['model.safetensors']);
    expect(Buffer.compare(await readFile(join(at, 'x', files[0]!)), await readFile(join(folder, files[0]!)))).toBe(0);
    expect(bytes).toBeLessThan(4 * 16544); // what its numbers would take unpacked
    const config = async (f: string): Promise<Record<string, unknown>> =>
      JSON.parse(await readFile(join(f, 'config.json'), 'utf8')) as Record<string, unknown>;
    const [ours, theirs] = [await config(join(at, 'x')), await config(folder)];
    // transformers leaves the head out by itself; here it is named
    expect(ours.quantization_config).toEqual({ ...(theirs.quantization_config as object), llm_int8_skip_modules: ['lm_head'] });
    expect({ ...ours, quantization_config: null }).toMatchObject({ ...theirs, quantization_config: null });
  });
});

const SIZES = { vocabulary: 11, width: 32, layers: 2, heads: 2, inner: 64, positions: 16 };
/** Weights of linear layers that are no embedding's table too. */
const quantizable = (m: Model): string[] => {
  const all = [...layers(m)];
  const weights = (kind: string) =>
    all.filter(({ layer: l }) => l.kind === kind).map(({ path, layer: l }) => ({ path: `${path}.weight`, w: l.fields.weight }));
  const tables = new Set(weights('embedding').map(({ w }) => (isLayer(w) ? w.fields.value : null)));
  return weights('linear').flatMap(({ path, w }) => (isLayer(w) && !tables.has(w.fields.value!) ? [path] : []));
};
const networks: Readonly<Record<string, Model>> = {
  llama: decoder(llama({ ...SIZES, kvHeads: 1 }), rng(1)),
  'llama, tied': decoder(llama({ ...SIZES, tied: true }), rng(2)),
  qwen2: decoder(qwen2(SIZES), rng(3)),
  gpt2: decoder(gpt2({ ...SIZES, fusedQkv: true }), rng(4)),
  bert: classifier(encoder(bert(SIZES), rng(5)), { classes: 3 }, rng(6)),
};
test.each(Object.entries(networks))(
  '%s, any choice of linear layers packed in any way it knows: read again, the same layers and the same numbers',
  async (_, network) => {
    const model = freeze(network);
    const linears = quantizable(model);
    await fc.assert(
      fc.asyncProperty(
        fc.subarray(linears, { minLength: 1 }),
        fc.constantFrom(nf4, fp4),
        fc.constantFrom(32, 64, 256),
        fc.boolean(),
        fc.constantFrom(1e9, 5000),
        async (chosen, how, block, nested, shardBytes) => {
          const scheme = nested ? how({ block, scales: doubleQuant() }) : how({ block });
          const packed = quantize(model, (p) => chosen.includes(p), scheme);
          await temporary(async (at) => {
            await saveCheckpoint(packed, join(at, 'x'), { shardBytes });
            const again = (await openCheckpoint(join(at, 'x'))).model;
            expect(packedPaths(again)).toEqual(packedPaths(packed));
            const answer = (m: Model) => float64().read(m({ ids: rows([[3, 1, 4, 1, 5]]) }, context(5)));
            expect(await answer(again)).toEqual(await answer(packed));
          });
        },
      ),
      { numRuns: 8, examples: [[linears.slice(-1), nf4, 256, false, 1e9]] }, // all numbers of a small matrix in one block
    );
  },
);
test('what it has no file for is refused before anything is written: which weight, why, and the way out', async () => {
  const model = freeze(networks.llama!);
  const remedy = /; save `await realize\(unpacked\(model\), engine\)` to write what it stands for$/;
  const q = (p: string): boolean => p.endsWith('blocks.0.attn.q.weight');
  const refused: readonly (readonly [Model, RegExp])[] = [
    [quantize(model, q, int8()), /trunk\.blocks\.0\.attn\.q\.weight is packed: not by nf4 or fp4/],
    [quantize(model, q, nf4({ block: 16 })), /attn\.q\.weight is packed: in blocks of 16, and bitsandbytes has blocks of 32, 64/],
    [
      quantize(model, q, nf4({ block: 32, scales: doubleQuant({ block: 16 }) })),
      /scales in blocks of 16, and bitsandbytes has them in blocks of 256/,
    ],
    [
      quantize(quantize(model, q, nf4()), (p) => p.endsWith('1.attn.q.weight'), fp4()),
      /1\.attn\.q\.weight is packed as fp4 with float32 scales, but .*0\.attn\.q\.weight as nf4/,
    ],
    [
      quantize(model, (p) => p === 'embed.weight', nf4({ block: 32 })),
      /embed\.weight is packed, and bitsandbytes packs linear layers alone, no embedding/,
    ],
    [
      quantize(freeze(decoder(gpt2(SIZES), rng(4))), q, nf4()),
      /attn\.q\.weight is packed, and .*c_attn\.weight is one matrix of 96 rows there/,
    ],
  ];
  await temporary(async (at) => {
    for (const [m, why] of refused) {
      await expect(saveCheckpoint(m, join(at, 'x'))).rejects.toThrow(why);
      await expect(saveCheckpoint(m, join(at, 'x'))).rejects.toThrow(remedy);
    }
    expect(await readdir(at)).toEqual([]);
  });
});

const STATE = `${NAME}.quant_state.bitsandbytes__nf4`;
const json = (s: string) => ({ data: new TextEncoder().encode(s), shape: [s.length] });
test.each([
  ['without scales', (t: Map<string, unknown>) => t.delete(`${NAME}.absmax`), /has no absmax/],
  [
    'with scales of another type',
    (t: Map<string, unknown>) => t.set(`${NAME}.absmax`, { data: new Uint8Array(8), shape: [8] }),
    /has U8 in absmax/,
  ],
  [
    'with too few codes',
    (t: Map<string, unknown>) => t.set(NAME, { data: new Uint8Array(9), shape: [9, 1] }),
    /bytes of codes: 9.*needs 240/,
  ],
  ['with a state that is not JSON', (t: Map<string, unknown>) => t.set(STATE, json('{"quant_type": nf4}')), /character 15/],
  ['with a prototype key', (t: Map<string, unknown>) => t.set(STATE, json('{"__proto__": {}}')), /not allowed as a name/],
  [
    'of no shape',
    (t: Map<string, unknown>) => t.set(STATE, json('{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": null}')),
    /shape/,
  ],
])('refuses a weight %s', async (_, spoil, message) => {
  const { tensors } = await readSafetensors(fileOf('nf4'));
  spoil(tensors);
  await temporary(async (folder) => {
    const path = join(folder, 'x.safetensors');
    await writeSafetensors(path, tensors);
    await using file = await openSafetensors(path);
    await expect(readFourBit(file, NAME)).rejects.toThrow(message);
  });
});
