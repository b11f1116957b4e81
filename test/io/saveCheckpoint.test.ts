// Checkpoints written here: what was read is what is written, what cannot be written is refused, and no save leaves half a folder.
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { leaf } from '../../core/tensor.ts';
import { openCheckpoint } from '../../io/checkpoints/open.ts';
import { saveCheckpoint } from '../../io/checkpoints/save.ts';
import { readSafetensors } from '../../io/files.ts';
import { backboneOf } from '../../nn/backbone.ts';
import { context } from '../../nn/context.ts';
import { biasesOf, decoder, gpt2, llama, qwen2 } from '../../nn/decoder.ts';
import { bert, encoder, roberta } from '../../nn/encoder.ts';
import { freeze, realize } from '../../nn/freeze.ts';
import { classifier, tagger, textClassifier } from '../../nn/heads.ts';
import type { AnyLayer, Model } from '../../nn/layer.ts';
import { newLinear } from '../../nn/linear.ts';
import { mapTensors } from '../../nn/tree.ts';
import { ssf } from '../../peft/additive/ssf.ts';
import { merge } from '../../peft/merge.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { int8 } from '../../quant/int8.ts';
import { inBlocks, quantize } from '../../quant/quantize.ts';

const FIXTURES = fileURLToPath(new URL('../oracle/fixtures/checkpoints', import.meta.url));
let root = '';
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'tinypeft-save-'));
});
afterAll(() => rm(root, { recursive: true }));
const fresh = async (): Promise<string> => join(await mkdtemp(join(root, 's-')), 'model');

const engine = float64();
const logits = async (model: Model): Promise<readonly number[]> =>
  Array.from(await engine.read(model({ ids: leaf([3, 5, 7, 4, 2, 6], [2, 3]) }, context(3))));
const SIZES = { vocabulary: 11, width: 8, layers: 2, heads: 2, positions: 16 };
/** Numbers far from what layers start with, so that none may be lost unseen. */
const lively = (m: Model): Model => {
  const r = rng(5);
  return freeze(
    mapTensors(m, (t, path) =>
      leaf(
        r.split(path === 'head.weight' ? 'embed.weight' : path).normal(
          t.shape.reduce((a, b) => a * b, 1),
          0.4,
        ),
        t.shape,
      ),
    ),
  );
};

describe('read, written and read again', () => {
  test.each(['gpt2', 'llama', 'qwen2', 'smollm', 'bert', 'roberta', 'llama-classes', 'gpt2-tags'])(
    '%s: the same tensors under the same names',
    async (name) => {
      const from = join(FIXTURES, name);
      const opened = await openCheckpoint(from);
      const to = await fresh();
      const theirs = JSON.parse(await readFile(join(from, 'config.json'), 'utf8')) as Record<string, unknown>;
      const dtype = ({ float16: 'F16', bfloat16: 'BF16' } as const)[theirs.dtype as string] ?? 'F32';
      const { files } = await saveCheckpoint(opened.model, to, { dtype, from: opened, shardBytes: name === 'llama' ? 40_000 : 5e9 });
      const all = async (folder: string): Promise<Map<string, unknown>> => {
        const maps = (await readdir(folder))
          .filter((f) => f.endsWith('.safetensors'))
          .map(async (f) => [...(await readSafetensors(join(folder, f))).tensors]);
        return new Map((await Promise.all(maps)).flat());
      };
      expect(await all(to)).toEqual(await all(from));
      if (name !== 'llama') expect(Buffer.compare(await readFile(join(to, files[0]!)), await readFile(join(from, files[0]!)))).toBe(0);
      else expect((await readdir(to)).sort()).toEqual((await readdir(from)).sort());
      const ours = JSON.parse(await readFile(join(to, 'config.json'), 'utf8')) as Record<string, unknown>;
      for (const [key, value] of Object.entries(theirs))
        expect(ours[key], key).toEqual(key === 'n_inner' && name === 'gpt2-tags' ? null : value);
      expect(await logits((await openCheckpoint(to)).model)).toEqual(await logits(opened.model));
      expect((await openCheckpoint(to)).tokenizer === null).toBe(opened.tokenizer === null);
    },
  );

  const made: readonly [string, Model][] = [
    ['gpt2, q k v apart', decoder(gpt2(SIZES), rng(1))],
    ['gpt2, untied', decoder(gpt2({ ...SIZES, tied: false, fusedQkv: true, inner: 20, activation: 'relu' }), rng(1))],
    ['llama, all biases, squeezed', decoder(llama({ ...SIZES, kvHeads: 1, bias: true, rope: { base: 500, scale: 0.25 } }), rng(1))],
    [
      'qwen2, tied, bands',
      decoder(qwen2({ ...SIZES, tied: true, rope: { base: 100, scale: 1, bands: { factor: 4, low: 1, high: 3, original: 8 } } }), rng(1)),
    ],
    ['bert', encoder(bert(SIZES), rng(1))],
    ['roberta, tags', tagger(encoder(roberta({ ...SIZES, padding: 2, positionOffset: 3 }), rng(1)), { classes: 3 }, rng(2))],
    ['bert, classes', classifier(encoder(bert(SIZES), rng(1)), { classes: 3 }, rng(2))],
    ['gpt2, classes', textClassifier(backboneOf(decoder(gpt2(SIZES), rng(1))), 'last', null, newLinear(8, 3, rng(2), { bias: false }))],
  ];
  test.each(made)('made here: %s', async (name, model) => {
    const lived = lively(model);
    const tied = name.includes(' tied') || name === 'gpt2, q k v apart';
    const saved = tied
      ? freeze(
          decoder(
            name.startsWith('gpt2')
              ? gpt2(SIZES)
              : qwen2({ ...SIZES, tied: true, rope: { base: 100, scale: 1, bands: { factor: 4, low: 1, high: 3, original: 8 } } }),
            rng(3),
          ),
        )
      : lived;
    const to = await fresh();
    const { config } = await saveCheckpoint(saved, to);
    const again = await openCheckpoint(to);
    const plain = (c: typeof config): object => ({
      ...c.sizes,
      fusedQkv: null,
      tied: c.head === 'language' && 'tied' in c.sizes && c.sizes.tied,
      ...('bias' in c.sizes ? { bias: biasesOf(c.sizes.bias) } : {}),
    });
    expect(plain(again.config)).toEqual(plain(config));
    const [a, b] = [await logits(again.model), await logits(saved)];
    expect(Math.max(...a.map((v, k) => Math.abs(v - b[k]!)))).toBeLessThan(1e-12);
    if (tied) expect(again.config.sizes).toMatchObject({ tied: true });
  });
});

describe('what cannot be written', () => {
  const small = lively(decoder(llama({ ...SIZES, layers: 1 }), rng(1)));
  const refused = async (model: Model, error: RegExp): Promise<void> => {
    const to = await fresh();
    await expect(saveCheckpoint(model, to)).rejects.toThrow(error);
    await expect(readdir(join(to, '..'))).resolves.toEqual([]); // nothing was begun
  };
  test('methods, recipes, packed weights: with the way out', async () => {
    const tuned = lora({ where: ['q'], rank: 2 })(small);
    await refused(tuned, /lora is attached at trunk\.blocks\.0\.attn\.q; save `await realize\(merge\(model\), engine\)`/);
    await refused(merge(tuned), /trunk\.blocks\.0\.attn\.q\.weight is a recipe, not numbers yet; save `await realize\(model, engine\)`/);
    await refused(
      quantize(small, inBlocks, int8()),
      /q\.weight is packed: not by nf4 or fp4.*; save `await realize\(unpacked\(model\), engine\)`/,
    );
    const to = await fresh();
    const merged = await realize(merge(tuned), engine);
    await saveCheckpoint(merged, to);
    expect(await logits((await openCheckpoint(to)).model)).toEqual(await logits(merged));
  });
  test('networks that transformers has no name for', async () => {
    const shifted = await realize(merge(ssf({ where: ['norm1'] })(small)), engine); // scales and shifts; LLaMA's norms have no shift
    await refused(shifted, /this model cannot be written as llama:\n {2}trunk\.blocks\.0\.norm1\.bias has no place in llama/);
    await refused(classifier(small, { classes: 3 }, rng(1)), /head\.bias has no place in llama/);
    await refused(
      classifier(small, { classes: 3, pool: 'mean' }, rng(1)),
      /the classifier takes mean without a pooler; transformers has 'last' without one/,
    );
    await refused(
      freeze(decoder(gpt2({ ...SIZES, norm: 'rms' }), rng(1))),
      /no architecture of transformers .* has learned positions, rms norms/,
    );
    const [a, b] = [1e-5, 1e-6].map((eps) => decoder(llama({ ...SIZES, eps }), rng(1)));
    const mixed = a!.with({
      ...a!.fields,
      trunk: (a!.fields.trunk as AnyLayer).with({
        ...(a!.fields.trunk as AnyLayer).fields,
        norm: (b!.fields.trunk as AnyLayer).fields.norm!,
      }),
    });
    await refused(mixed as Model, /trunk\.blocks\.0\.norm1 and trunk\.norm differ in eps \(0\.00001, 0\.000001\)/);
  });
});

describe('a folder that is there already', () => {
  const [one, two] = [1, 2].map((seed) => freeze(decoder(llama({ ...SIZES, layers: 1 }), rng(seed)))) as [Model, Model];
  test('is left alone, or replaced with its other files kept', async () => {
    const to = await fresh();
    await saveCheckpoint(one, to, { shardBytes: 1000 });
    expect((await readdir(to)).length).toBeGreaterThan(4);
    await writeFile(join(to, 'notes.txt'), 'mine');
    await expect(saveCheckpoint(two, to)).rejects.toThrow(/exists and holds config\.json, .*pass overwrite: true/);
    expect(await logits((await openCheckpoint(to)).model)).toEqual(await logits(one));
    await saveCheckpoint(two, to, { overwrite: true });
    expect((await readdir(to)).sort()).toEqual(['config.json', 'model.safetensors', 'notes.txt']);
    expect(await logits((await openCheckpoint(to)).model)).toEqual(await logits(two));
    expect(await readdir(join(to, '..'))).toEqual(['model']);
    await expect(saveCheckpoint(two, join(to, 'notes.txt'))).rejects.toThrow(/notes\.txt is a file; choose another name/);
  });
  test('that was moved aside by a save which was killed: the error says where it is', async () => {
    const to = await fresh();
    await saveCheckpoint(one, to);
    await rename(to, join(to, '..', '.model.abc123.old'));
    await expect(openCheckpoint(to)).rejects.toThrow(
      /interrupted between two renames; what was there before is whole in .*\.model\.abc123\.old, rename it/,
    );
  });
  test('is whole when a save fails', async () => {
    const to = await fresh();
    await saveCheckpoint(one, to);
    const from = { folder: join(to, 'nowhere'), json: {} };
    await mkdir(join(to, 'nowhere'));
    await mkdir(join(to, 'nowhere', 'tokenizer.json'), { recursive: true }); // a folder where a file should be
    await expect(saveCheckpoint(two, to, { overwrite: true, from })).rejects.toThrow();
    expect(await logits((await openCheckpoint(to)).model)).toEqual(await logits(one));
    expect(await readdir(join(to, '..'))).toEqual(['model']);
  });
});
