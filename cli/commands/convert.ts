// `tinypeft convert`: adapters between this library's files and Hugging Face PEFT's, and a GGUF file into a checkpoint.
import { parseArgs } from 'node:util';
import { short } from '../../core/account.ts';
import { saveAdapter } from '../../io/adapters.ts';
import { saveCheckpoint } from '../../io/checkpoints/save.ts';
import { loadPeft } from '../../io/peft/load.ts';
import { savePeft } from '../../io/peft/save.ts';
import { realize } from '../../nn/freeze.ts';
import { unpacked } from '../../quant/quantize.ts';
import { UsageError } from '../usage.ts';
import { ENGINE_FLAGS, ENGINE_HELP, HELP_FLAG, needed } from './flags.ts';
import { adapterKind, engineFor, openModel, withAdapter } from './open.ts';

const HELP = `tinypeft convert --model FILE.gguf --out DIR
tinypeft convert --model DIR|REPO|FILE.gguf --adapter DIR --out DIR

A GGUF file becomes a checkpoint of float32 numbers (without a tokenizer.json: take it from the original model). An adapter of this library becomes one of
Hugging Face PEFT, and the other way round; the model is needed to know its layers.

${ENGINE_HELP}`;

export async function convertCommand(args: readonly string[]): Promise<void> {
  const { values: v } = parseArgs({
    args: [...args],
    options: { model: { type: 'string' }, adapter: { type: 'string' }, out: { type: 'string' }, ...ENGINE_FLAGS, ...HELP_FLAG },
  });
  if (v.help) return console.log(HELP);
  const source = needed(v.model, 'model', 'a folder, a repository or a .gguf file');
  const out = needed(v.out, 'out', 'a folder for the result');
  if (v.adapter === undefined && !source.endsWith('.gguf'))
    throw new UsageError('convert: a checkpoint is one already; name an --adapter, or a .gguf file as --model');
  await using engine = await engineFor(v);
  const { model } = await openModel(source);
  if (v.adapter === undefined) {
    const saved = await saveCheckpoint(await realize(unpacked(model), engine), out);
    return console.log(`wrote ${out}: ${saved.files.join(', ')} (${short(saved.bytes, 'B')})`);
  }
  if ((await adapterKind(v.adapter)) === 'peft') {
    const { model: adapted, method } = await loadPeft(model, v.adapter, { engine, warn: (m) => console.error(m) });
    const { file, bytes } = await saveAdapter(adapted, out);
    return console.log(`wrote ${file}: ${method}, ${short(bytes, 'B')}`);
  }
  const saved = await savePeft(await withAdapter(model, v.adapter, engine), out, { engine, baseModel: source });
  console.log(`wrote ${saved.config} and ${saved.weights}: ${saved.peftType}, ${saved.keys.length} tensors`);
}
