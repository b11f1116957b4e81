// `tinypeft merge`: an adapter folded into its model, written as a checkpoint that transformers loads.
import { short } from '../../core/account.ts';
import type { JsonObject } from '../../io/checkpoints/config.ts';
import { saveCheckpoint } from '../../io/checkpoints/save.ts';
import { realize } from '../../nn/freeze.ts';
import { merge } from '../../peft/merge.ts';
import { unpacked } from '../../quant/quantize.ts';
import { ENGINE_FLAGS, ENGINE_HELP, HELP_FLAG, needed, oneOf, PACKINGS, parsed } from './flags.ts';
import { engineFor, openAdapted } from './open.ts';

const HELP = `tinypeft merge --model DIR|REPO|FILE.gguf --adapter DIR --out DIR [options]

Writes config.json and safetensors, with the tokenizer's files beside them. Methods that cannot be folded are refused by name.
An adapter that was trained on a packed base is merged into that base, unpacked: what is written computes what was trained.

  --quantize NAME packs the base before it is merged into: ${PACKINGS.join(', ')} (as the adapter was trained)
  --dtype NAME    F32, F16 or BF16 (F32)
  --overwrite     replace a folder that exists
  --json          the result as one JSON object
${ENGINE_HELP}`;
const DTYPES = ['F32', 'F16', 'BF16'] as const;

export async function mergeCommand(args: readonly string[]): Promise<void> {
  const { values: v } = parsed('merge', {
    args: [...args],
    options: {
      model: { type: 'string' },
      adapter: { type: 'string' },
      out: { type: 'string' },
      quantize: { type: 'string' },
      dtype: { type: 'string', default: 'F32' },
      overwrite: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
      ...ENGINE_FLAGS,
      ...HELP_FLAG,
    },
  });
  if (v.help) return console.log(HELP);
  const source = needed(v.model, 'model', 'a folder, a repository or a .gguf file');
  const adapter = needed(v.adapter, 'adapter', 'the folder of an adapter');
  const out = needed(v.out, 'out', 'a folder for the merged model');
  const dtype = oneOf(v.dtype, 'dtype', DTYPES)!;
  await using engine = await engineFor(v);
  const { model, checkpoint, labels, packing } = await openAdapted(source, adapter, engine, oneOf(v.quantize, 'quantize', PACKINGS));
  const merged = await realize(unpacked(merge(model)), engine);
  const saved = await saveCheckpoint(merged, out, {
    dtype,
    overwrite: v.overwrite,
    ...(checkpoint === null ? {} : { from: { folder: checkpoint.folder, json: { ...checkpoint.json, ...named(labels) } } }),
  });
  if (v.json) return console.log(JSON.stringify({ out, files: saved.files, bytes: saved.bytes, dtype, quantize: packing }));
  const base = packing === 'none' ? '' : `, merged into the base as ${packing} leaves it`;
  console.log(`wrote ${out}: ${saved.files.join(', ')} (${short(saved.bytes, 'B')})${base}`);
}

/** Names of classes, as config.json has them. */
const named = (labels: readonly string[] | null): JsonObject =>
  labels === null ? {} : { id2label: Object.fromEntries(labels.entries()), label2id: Object.fromEntries(labels.map((l, k) => [l, k])) };
