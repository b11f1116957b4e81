// Tuned here, merged, saved, and opened by transformers: npx tsx test/oracle/merged.ts [--write] prints (writes) the table in docs/checkpoints.md.
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { paramOf, stateOf } from '../../core/tensor.ts';
import { openCheckpoint } from '../../io/checkpoints/open.ts';
import { type SaveOptions, saveCheckpoint } from '../../io/checkpoints/save.ts';
import { context } from '../../nn/context.ts';
import { realize } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { mapTensors } from '../../nn/tree.ts';
import { merge } from '../../peft/merge.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { off, rows } from './fixtures.ts';
import { ask, pythonWith } from './python.ts';

interface Case {
  readonly name: string;
  readonly where: readonly string[];
  readonly save: SaveOptions;
}
const all = ['q', 'k', 'v', 'o', 'gate', 'up', 'down'];
const CASES: readonly Case[] = [
  { name: 'gpt2', where: ['qkv', 'o', 'up', 'down'], save: {} },
  { name: 'llama', where: all, save: { shardBytes: 20_000 } },
  { name: 'llama', where: ['q', 'v'], save: { dtype: 'BF16' } },
  { name: 'qwen2', where: all, save: {} },
  { name: 'smollm', where: ['q', 'v'], save: { dtype: 'F16' } },
  { name: 'bert', where: ['q', 'v', 'up'], save: {} },
  { name: 'roberta', where: ['q', 'v', 'up'], save: {} },
  { name: 'llama-classes', where: all, save: {} },
  { name: 'gpt2-tags', where: ['qkv'], save: {} },
];
export interface Row {
  readonly model: string; // the class that transformers made of it
  readonly tuned: string;
  readonly stored: string;
  readonly strays: object; // names that were missing or left over
  readonly difference: number; // of logits, as a share of those above 1
  readonly changed: number; // what tuning changed, in the same measure
  readonly counts: readonly [ours: number, theirs: number];
}
interface Theirs {
  readonly kind: string;
  readonly strays: object;
  readonly parameters: number;
  readonly shape: number[];
  readonly data: number[];
}

const IDS = [
  [3, 7, 11, 5, 2],
  [9, 4, 1, 1, 1],
];
const MASK = [
  [1, 1, 1, 1, 1],
  [1, 1, 0, 0, 0],
];
const TYPES = [
  [0, 0, 1, 1, 1],
  [0, 1, 0, 0, 0],
];
const engine = float64();
/** transformers finds the end of a text by pad_token_id where a decoder gives one class for a text; ours by the mask. */
const idsFor = (name: string): number[][] => (name === 'llama-classes' ? IDS.map((r, b) => r.map((id, t) => id * MASK[b]![t]!)) : IDS);
const answer = async (model: Model, name: string): Promise<ArrayLike<number>> =>
  engine.read(model({ ids: rows(idsFor(name)), keyMask: rows(MASK), types: name === 'bert' ? rows(TYPES) : null }, context(5)));

/** The Python that `run` needs; null where there is none. */
export const found = (): string | null => pythonWith('torch', 'transformers');

/** Every case, with transformers' answers. */
export async function run(
  python: string,
): Promise<{ readonly rows: readonly Row[]; readonly versions: { torch: string; transformers: string } }> {
  const root = await mkdtemp(join(tmpdir(), 'tinypeft-merged-'));
  try {
    const asks: object[] = [];
    const ours: {
      readonly logits: ArrayLike<number>;
      readonly before: ArrayLike<number>;
      readonly numbers: number;
      readonly files: number;
    }[] = [];
    for (const [k, { name, where, save }] of CASES.entries()) {
      const opened = await openCheckpoint(fileURLToPath(new URL(`fixtures/checkpoints/${name}`, import.meta.url)));
      const r = rng(k);
      const tuned = mapTensors(lora({ where, rank: 2 })(opened.model), (t, path) => {
        const p = paramOf(t); // as after training: B is no longer zero
        return p === null ? t : stateOf({ ...p, value: r.split(path).normal(p.value.length, 0.2) });
      });
      const folder = join(root, String(k));
      const { files } = await saveCheckpoint(await realize(merge(tuned), engine), folder, { from: opened, ...save });
      // halves round the merged weights: there the numbers that were stored are compared
      const said = await answer(save.dtype === undefined ? tuned : (await openCheckpoint(folder)).model, name);
      const bytes = (await saveCheckpoint(opened.model, join(root, `bare ${k}`))).bytes;
      ours.push({ logits: said, before: await answer(opened.model, name), numbers: bytes / 4, files: files.length });
      asks.push({ folder, ids: idsFor(name), mask: MASK, types: name === 'bert' ? TYPES : null });
    }
    const [versions, ...theirs] = (await ask(python, 'merged.py', asks)) as [{ torch: string; transformers: string }, ...Theirs[]];
    const table = theirs.map((t, k): Row => {
      const { name, where, save } = CASES[k]!;
      const o = ours[k]!;
      return {
        model: `${t.kind} (${name})`,
        tuned: where.join(', '),
        stored: `${save.dtype ?? 'F32'}, ${o.files} ${o.files === 1 ? 'file' : 'files'}`,
        strays: t.strays,
        difference: off(o.logits, t),
        changed: off(o.before, t),
        counts: [o.numbers, t.parameters],
      };
    });
    return { rows: table, versions };
  } finally {
    await rm(root, { recursive: true });
  }
}

const BEGIN = '<!-- merged: written by test/oracle/merged.ts -->';
const END = '<!-- end -->';
if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const python = found();
  if (python === null) throw new Error('merged: needs a Python with torch and transformers; name it in TINYPEFT_PYTHON');
  const { rows: table, versions } = await run(python);
  const text = [
    `transformers ${versions.transformers}, torch ${versions.torch}; nothing missing, nothing left over in any of them.`,
    '',
    '| class that transformers loads | LoRA (rank 2) on | saved as | numbers here = there | largest difference of logits | what LoRA changed in them |',
    '|---|---|---|---|---|---|',
    ...table.map((r) => {
      if (Object.keys(r.strays).length > 0 || r.counts[0] !== r.counts[1]) throw new Error(`${r.model}: ${JSON.stringify(r)}`);
      return `| ${r.model} | ${r.tuned} | ${r.stored} | ${r.counts[0].toLocaleString('en')} | ${r.difference.toExponential(1)} | ${r.changed.toFixed(2)} |`;
    }),
  ].join('\n');
  console.log(text);
  if (process.argv.includes('--write')) {
    const path = fileURLToPath(new URL('../../docs/checkpoints.md', import.meta.url));
    const old = await readFile(path, 'utf8');
    await writeFile(path, `${old.slice(0, old.indexOf(BEGIN) + BEGIN.length)}\n${text}\n${old.slice(old.indexOf(END))}`);
  }
}
