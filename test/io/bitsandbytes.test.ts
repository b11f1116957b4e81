// Four-bit weights of the bitsandbytes package (test/oracle/bnb_files.py): read, unpacked, written again byte for byte, and packed here to the same bytes.
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { fourBitNames, fourBitParts, fourBitTensors, readFourBit } from '../../io/bitsandbytes.ts';
import { openCheckpoint } from '../../io/checkpoints/open.ts';
import { openSafetensors, readSafetensors, writeSafetensors } from '../../io/files.ts';
import { context } from '../../nn/context.ts';
import type { Layer } from '../../nn/layer.ts';
import { doubleQuant } from '../../quant/doubleQuant.ts';
import { fp4, nf4 } from '../../quant/nf4.ts';
import { packedPaths } from '../../quant/quantize.ts';
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
