// `tinypeft merge`: an adapter folded into its model, written as a checkpoint that transformers loads.
import { parseArgs } from 'node:util';
import { short } from '../../core/account.ts';
import { saveCheckpoint } from '../../io/checkpoints/save.ts';
import { realize } from '../../nn/freeze.ts';
import { merge } from '../../peft/merge.ts';
import { UsageError } from '../usage.ts';
import { ENGINE_FLAGS, ENGINE_HELP, HELP_FLAG, needed } from './flags.ts';
import { engineFor, openModel, withAdapter } from './open.ts';

const HELP = `tinypeft merge --model DIR|REPO|FILE.gguf --adapter DIR --out DIR [options]

Writes config.json and safetensors, with the tokenizer's files beside them. Methods that cannot be folded are refused by name.

  --dtype NAME    F32, F16 or BF16 (F32)
  --overwrite     replace a folder that exists
${ENGINE_HELP}`;
const DTYPES = ['F32', 'F16', 'BF16'] as const;

export async function mergeCommand(args: readonly string[]): Promise<void> {
  const { values: v } = parseArgs({
    args: [...args],
    options: {
      model: { type: 'string' },
      adapter: { type: 'string' },
      out: { type: 'string' },
      dtype: { type: 'string', default: 'F32' },
      overwrite: { type: 'boolean', default: false },
      ...ENGINE_FLAGS,
      ...HELP_FLAG,
    },
  });
  if (v.help) return console.log(HELP);
  const source = needed(v.model, 'model', 'a folder, a repository or a .gguf file');
  const adapter = needed(v.adapter, 'adapter', 'the folder of an adapter');
  const out = needed(v.out, 'out', 'a folder for the merged model');
  const dtype = DTYPES.find((d) => d === v.dtype);
  if (dtype === undefined) throw new UsageError(`--dtype: there is no ${v.dtype}; ${DTYPES.join(', ')}`);
  await using engine = await engineFor(v);
  const { model, checkpoint } = await openModel(source);
  const merged = await realize(merge(await withAdapter(model, adapter, engine)), engine);
  const saved = await saveCheckpoint(merged, out, {
    dtype,
    overwrite: v.overwrite,
    ...(checkpoint === null ? {} : { from: checkpoint }),
  });
  console.log(`wrote ${out}: ${saved.files.join(', ')} (${short(saved.bytes, 'B')})`);
}
