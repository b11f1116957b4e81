// Checkpoints that Hugging Face transformers saved (test/oracle/checkpoints.py) give its logits here.
import { copyFile, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { size } from '../../core/shape.ts';
import { paramOf } from '../../core/tensor.ts';
import { openCheckpoint } from '../../io/checkpoints/open.ts';
import { context } from '../../nn/context.ts';
import { unfreeze } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { layers, params, tensors } from '../../nn/tree.ts';
import { methods } from '../../peft/all.ts';
import { widened } from '../../quant/half.ts';
import { llmInt8 } from '../../quant/llmInt8.ts';
import { nf4 } from '../../quant/nf4.ts';
import { inBlocks, packedPaths, quantize, residentBytes } from '../../quant/quantize.ts';
import { fixture, off, rows, type Table } from './fixtures.ts';

interface Answer {
  readonly folder?: string;
  readonly config?: object;
  readonly ids: number[][];
  readonly mask: number[][];
  readonly types: number[][] | null;
  readonly logits: Table;
  readonly hidden: Table | null;
  readonly text?: string;
}
const { answers } = fixture<{ answers: Readonly<Record<string, Answer>> }>('checkpoints');
const TOLERANCE = 1e-4;
const folderOf = (name: string): string => fileURLToPath(new URL(`fixtures/checkpoints/${name}`, import.meta.url));

let root = '';
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'tinypeft-checkpoints-'));
});
afterAll(() => rm(root, { recursive: true }));
/** The folder of an answer, with its config.json changed where the answer says so. */
async function prepared(
  { folder, config }: Answer,
  name: string,
  change: (config: Record<string, unknown>) => object = (c) => c,
): Promise<string> {
  const from = folderOf(folder ?? name);
  const to = await mkdtemp(join(root, 'm-'));
  for (const f of await readdir(from)) await copyFile(join(from, f), join(to, f));
  const own = JSON.parse(await readFile(join(from, 'config.json'), 'utf8')) as object;
  await writeFile(join(to, 'config.json'), JSON.stringify(change({ ...own, ...config })));
  return to;
}
async function logitsOf(model: Model, a: Answer): Promise<Float64Array> {
  const [{ length }] = a.mask as [number[]];
  const ids = a.ids.map((r) => r.slice(0, length));
  const y = model({ ids: rows(ids), keyMask: rows(a.mask), types: a.types === null ? null : rows(a.types) }, context(length));
  return (await float64().read(y)) as Float64Array;
}

describe("logits are transformers' own", () => {
  test.each(Object.entries(answers))('%s', async (name, a) => {
    const { model } = await openCheckpoint(await prepared(a, name));
    expect([...tensors(model)].every(({ tensor }) => paramOf(tensor) === null)).toBe(true);
    expect(off(await logitsOf(model, a), a.logits)).toBeLessThan(TOLERANCE);
  });
  test.each(['bert', 'roberta'])('%s without its head: hidden states, padding included', async (name) => {
    const a = answers[name]!;
    const { model, config } = await openCheckpoint(folderOf(name), { withoutHead: true });
    expect(config.head).toBe('none');
    expect(off(await logitsOf(model, a), a.hidden!)).toBeLessThan(TOLERANCE);
  });
  test('rotary positions as older versions of transformers wrote them', async () => {
    const older = ({ rope_parameters, ...c }: Record<string, unknown>): object => {
      const { rope_theta, ...rest } = rope_parameters as { rope_theta: number };
      return { ...c, rope_theta, rope_scaling: rest };
    };
    for (const name of ['llama', 'llama, rope linear', 'llama, rope llama3']) {
      const a = answers[name]!;
      const { model } = await openCheckpoint(await prepared(a, name, older));
      expect(off(await logitsOf(model, a), a.logits), name).toBeLessThan(TOLERANCE);
    }
    // the oldest spelling calls the kind `type`; scalings matter at these positions
    const a = answers['llama, rope linear']!;
    const oldest = await prepared(a, 'llama', ({ rope_parameters: _, ...c }) => ({ ...c, rope_scaling: { type: 'linear', factor: 4 } }));
    expect(off(await logitsOf((await openCheckpoint(oldest)).model, a), a.logits)).toBeLessThan(TOLERANCE);
    expect(off(await logitsOf((await openCheckpoint(folderOf('llama'))).model, a), a.logits)).toBeGreaterThan(0.01);
  });
});

test('tied weights are one tensor, and stay one when they are trained', async () => {
  const { model, config } = await openCheckpoint(folderOf('smollm'), { dtype: 'float32' });
  const of = (m: Model, p: string): unknown => [...tensors(m)].find(({ path }) => path === p)!.tensor;
  expect(of(model, 'head.weight')).toBe(of(model, 'embed.weight'));
  const trained = unfreeze(model, () => true);
  expect(of(trained, 'head.weight')).toBe(of(trained, 'embed.weight'));
  const { vocabulary: v, width: d } = config.sizes;
  const perBlock = d * d * 2 + d * (d / 2) * 2 + 3 * d * 40 + 2 * d; // q, o; k, v on half the heads; gate, up, down; two norms
  expect([...params(trained).keys()].reduce((n, p) => n + size(p.shape), 0)).toBe(v * d + 2 * perBlock + d);
});

test('its tokenizer: ids, text again, the token that ends', async () => {
  const a = answers.smollm!;
  const { tokenizer } = await openCheckpoint(folderOf('smollm'));
  const ids = [...tokenizer!.encode(a.text!)];
  expect(ids).toEqual(a.ids[0]);
  expect(tokenizer!.decode(ids)).toBe(a.text);
  expect(tokenizer!.end).toBe(2);
  expect(tokenizer!.decode([1, ...ids, 2])).toBe(a.text);
  expect(tokenizer!.decode([1, ...ids, 2], true)).toBe(`<|im_start|>${a.text}<|im_end|>`);
  expect((await openCheckpoint(folderOf('gpt2'))).tokenizer).toBeNull();
});

test.each(['qwen2', 'smollm', 'bert'])('%s: matrices of halves stay two bytes a number, the answers are the same', async (name) => {
  const { model } = await openCheckpoint(folderOf(name));
  const wide = (await openCheckpoint(folderOf(name), { dtype: 'float32' })).model;
  expect([...tensors(widened(model))]).toEqual([...tensors(wide)]);
  const matrices = [...tensors(wide)].filter(({ tensor }) => tensor.shape.length === 2 && paramOf(tensor) === null);
  const own = new Set(matrices.map(({ tensor }) => tensor));
  const vectors = [...tensors(wide)].filter(({ tensor }) => tensor.shape.length === 1).reduce((n, { tensor }) => n + size(tensor.shape), 0);
  const table = { smollm: 2 * 2 ** 9 * 4, qwen2: 2 * 2 ** 6 * 4, bert: 2 * 2 ** 6 * 4 }[name]!; // what bits stand for, shared by all
  expect(packedPaths(model).length).toBe(matrices.length);
  expect(residentBytes(model)).toBe([...own].reduce((n, t) => n + 2 * size(t.shape), 0) + 4 * vectors + table);
  expect(off(await logitsOf(model, answers[name]!), answers[name]!.logits)).toBeLessThan(TOLERANCE);
});

/** The others do not see the weight's numbers; those that ask about tied weights are all at weights. */
const looks = (m: (typeof methods)[number]): boolean => m.standard().parts.some(({ method: p }) => 'readsWeight' in p || p.at === 'weight');

test('a method that reads weights attaches to a checkpoint of halves as to one of float32, and so does quantize', async () => {
  const kept = (await openCheckpoint(folderOf('smollm'))).model;
  const wide = (await openCheckpoint(folderOf('smollm'), { dtype: 'float32' })).model;
  const attempt = (attach: () => Model): Model | string => {
    try {
      return attach();
    } catch (e) {
      return (e as Error).message.replaceAll('.codes', '');
    }
  };
  const own = (m: Model): unknown[] =>
    [...layers(m)].flatMap(({ path, layer: l }) =>
      l.attached === null ? [] : [...tensors(l.fields[l.attached.field]!)].map(({ tensor }) => [path, tensor.shape, tensor.source]),
    );
  for (const m of methods.filter(looks)) {
    const [halves, floats] = [kept, wide].map((model) => attempt(() => m.standard()(model)));
    if (typeof floats === 'string') expect(halves, m.name).toBe(floats);
    else {
      expect(typeof halves, `${m.name}: ${halves}`).not.toBe('string');
      expect(own(halves as Model), m.name).toEqual(own(floats!));
    }
  }
  for (const pack of [(m: Model) => quantize(m, inBlocks, nf4()), (m: Model) => llmInt8(m, inBlocks)])
    expect([...tensors(widened(pack(kept)))]).toEqual([...tensors(pack(wide))]);
  expect(() => unfreeze(kept, () => true)).toThrow(/unfreeze: head\.weight is packed.*widened\(model\)/);
  expect(() => unfreeze(kept, (p) => p.endsWith('norm1.weight'))).not.toThrow();
});
