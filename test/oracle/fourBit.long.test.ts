// Models packed in four bits here, saved, and opened by transformers with bitsandbytes: our logits, its packed layers where ours are, and in them the same tensors, byte for byte.
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { leaf } from '../../core/tensor.ts';
import { openCheckpoint } from '../../io/checkpoints/open.ts';
import { type SaveOptions, saveCheckpoint } from '../../io/checkpoints/save.ts';
import { context } from '../../nn/context.ts';
import { decoder, gpt2, llama, qwen2 } from '../../nn/decoder.ts';
import { bert, encoder, roberta } from '../../nn/encoder.ts';
import { freeze } from '../../nn/freeze.ts';
import { classifier } from '../../nn/heads.ts';
import type { Model } from '../../nn/layer.ts';
import { mapTensors } from '../../nn/tree.ts';
import { doubleQuant } from '../../quant/doubleQuant.ts';
import { fp4, nf4 } from '../../quant/nf4.ts';
import { inBlocks, packedPaths, quantize, type Scheme, type WeightChoice } from '../../quant/quantize.ts';
import { off, rows, type Table } from './fixtures.ts';
import { ask, pythonWith } from './python.ts';

// rows in multiples of 64 numbers and of 32 rows: others the kernel on CPUs (0.50.2) takes for wrong or refuses, see bnb_checkpoint.py
const SIZES = { vocabulary: 64, width: 64, layers: 2, heads: 4, inner: 128, positions: 32 };
interface Case {
  readonly name: string;
  readonly model: Model;
  readonly scheme: Scheme;
  readonly where?: WeightChoice;
  readonly save?: SaveOptions;
  readonly types?: boolean;
  readonly packed: number;
}
const double = doubleQuant();
const CASES: readonly Case[] = [
  { name: 'LLaMA, NF4', model: decoder(llama({ ...SIZES, kvHeads: 2 }), rng(1)), scheme: nf4(), packed: 14 },
  {
    name: 'LLaMA with a tied head, NF4 nested, bfloat16, two files',
    model: decoder(llama({ ...SIZES, tied: true }), rng(2)),
    scheme: nf4({ scales: double }),
    save: { dtype: 'BF16', shardBytes: 30_000 },
    packed: 14,
  },
  {
    name: 'LLaMA, down alone in blocks of 128',
    model: decoder(llama(SIZES), rng(3)),
    scheme: nf4({ block: 128 }),
    where: (p) => /mlp\.down\./.test(p),
    packed: 2,
  },
  {
    name: 'LLaMA, the head too',
    model: decoder(llama({ ...SIZES, tied: false }), rng(4)),
    scheme: fp4(),
    where: (p) => inBlocks(p) || p.startsWith('head.'),
    packed: 15,
  },
  { name: 'Qwen2, FP4 nested', model: decoder(qwen2({ ...SIZES, kvHeads: 2 }), rng(5)), scheme: fp4({ scales: double }), packed: 14 },
  { name: 'GPT-2, NF4 nested', model: decoder(gpt2({ ...SIZES, fusedQkv: true }), rng(6)), scheme: nf4({ scales: double }), packed: 8 },
  {
    name: 'BERT for classes, NF4',
    model: classifier(encoder(bert(SIZES), rng(7)), { classes: 3 }, rng(8)),
    scheme: nf4(),
    types: true,
    packed: 12,
  },
  { name: 'RoBERTa without a head, NF4', model: encoder(roberta(SIZES), rng(9)), scheme: nf4(), packed: 12 },
];
const IDS = [
  [3, 7, 11, 5, 2],
  [9, 4, 6, 1, 1],
];
const MASK = [
  [1, 1, 1, 1, 1],
  [1, 1, 1, 0, 0],
];
const TYPES = [
  [0, 0, 1, 1, 1],
  [0, 1, 0, 0, 0],
];
interface Theirs {
  readonly kind: string;
  readonly strays: object;
  readonly lost: readonly string[];
  readonly fourBits: boolean;
  readonly packed: readonly string[];
  readonly own: Table;
  readonly format: Table;
}
const engine = float64();
const answer = (model: Model, types: boolean): Promise<ArrayLike<number>> =>
  engine.read(model({ ids: rows(IDS), keyMask: rows(MASK), types: types ? rows(TYPES) : null }, context(5)));
/** Numbers that make logits differ, in place of those layers start with. */
const lively = (m: Model, seed: number): Model => {
  const r = rng(seed);
  return freeze(
    mapTensors(m, (t, path) =>
      leaf(
        r
          .split(path)
          .normal(
            t.shape.reduce((a, b) => a * b, 1),
            0.15,
          )
          .map((v) => (/norm.*(gain|weight)/.test(path) ? v + 1 : v)),
        t.shape,
      ),
    ),
  );
};
const python = pythonWith('torch', 'transformers', 'accelerate', 'bitsandbytes');
test.skipIf(python === null)('packed here, opened by transformers with bitsandbytes (skipped without TINYPEFT_PYTHON)', async () => {
  const root = await mkdtemp(join(tmpdir(), 'tinypeft-4bit-'));
  try {
    const ours: { readonly logits: ArrayLike<number>; readonly plain: ArrayLike<number> }[] = [];
    const asks: object[] = [];
    for (const [k, c] of CASES.entries()) {
      const plain = lively(c.model, 20 + k);
      const model = quantize(plain, c.where ?? inBlocks, c.scheme);
      expect(packedPaths(model), c.name).toHaveLength(c.packed);
      const folder = join(root, String(k));
      await saveCheckpoint(model, folder, c.save);
      const again = (await openCheckpoint(folder, { dtype: 'float32' })).model;
      expect(packedPaths(again), c.name).toEqual(packedPaths(model));
      ours.push({ logits: await answer(again, c.types === true), plain: await answer(plain, c.types === true) });
      asks.push({ folder, again: join(root, `${k}.safetensors`), ids: IDS, mask: MASK, types: c.types === true ? TYPES : null });
    }
    const [versions, ...theirs] = (await ask(python!, 'four_bit.py', asks)) as [object, ...Theirs[]];
    console.log(JSON.stringify(versions));
    for (const [k, t] of theirs.entries()) {
      const { name, packed, save } = CASES[k]!;
      const o = ours[k]!;
      const [format, own] = [off(o.logits, t.format), off(o.logits, t.own)];
      console.log(
        `${name} (${t.kind}): ${t.packed.length} packed; by the format ${format.toExponential(1)}, by its kernels ${own.toExponential(1)}; packing changed ${off(o.plain, t.format).toExponential(1)}`,
      );
      expect(t.fourBits, name).toBe(true);
      expect(t.packed, name).toHaveLength(packed);
      // RoBERTa's pooler is no part of what was saved: transformers starts a new one, which hidden states do not see
      expect(JSON.stringify(t.strays), name).toMatch(
        name.includes('without a head') ? /^\{"missing_keys":\["pooler\.dense\.bias","pooler\.dense\.weight"\]\}$/ : /^\{\}$/,
      );
      expect(t.lost, name).toEqual([]);
      expect(format, name).toBeLessThan(3e-6); // LLaMA's norms and rotations are float32 there, else both are double precision
      if (save?.dtype === undefined) expect(own, name).toBeLessThan(1e-4); // float32 there
      expect(off(o.plain, t.format), name).toBeGreaterThan(1e-2); // what packing changed
      if (save?.shardBytes !== undefined || name.includes('without a head')) continue;
      const [here, there] = [join(root, String(k), 'model.safetensors'), join(root, `${k}.safetensors`)];
      expect(Buffer.compare(await readFile(here), await readFile(there)), name).toBe(0);
    }
  } finally {
    await rm(root, { recursive: true });
  }
});
