// `tinypeft convert`: adapters between this library's files and Hugging Face PEFT's, and a GGUF file into a checkpoint.
import { join } from 'node:path';
import { short } from '../../core/account.ts';
import { saveAdapter } from '../../io/adapters.ts';
import { saveCheckpoint } from '../../io/checkpoints/save.ts';
import { writeAtomic } from '../../io/files.ts';
import { type SaveOptions, savePeft } from '../../io/peft/save.ts';
import { realize } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { unpacked } from '../../quant/quantize.ts';
import { UsageError } from '../usage.ts';
import { ENGINE_FLAGS, ENGINE_HELP, HELP_FLAG, needed, parsed } from './flags.ts';
import { adapterKind, engineFor, LABELS_FILE, labelsOf, openAdapted } from './open.ts';
import { writePacking } from './packing.ts';

const HELP = `tinypeft convert --model FILE.gguf --out DIR
tinypeft convert --model DIR|REPO|FILE.gguf --adapter DIR --out DIR

A GGUF file becomes a checkpoint of float32 numbers (without a tokenizer.json: take it from the original model). An adapter of this library becomes one of
Hugging Face PEFT, and the other way round; the model is needed to know its layers.

${ENGINE_HELP}`;

export async function convertCommand(args: readonly string[]): Promise<void> {
  const { values: v } = parsed('convert', {
    args: [...args],
    options: { model: { type: 'string' }, adapter: { type: 'string' }, out: { type: 'string' }, ...ENGINE_FLAGS, ...HELP_FLAG },
  });
  if (v.help) return console.log(HELP);
  const source = needed(v.model, 'model', 'a folder, a repository or a .gguf file');
  const out = needed(v.out, 'out', 'a folder for the result');
  if (v.adapter === undefined && !source.endsWith('.gguf'))
    throw new UsageError('convert: a checkpoint is one already; name an --adapter, or a .gguf file as --model');
  await using engine = await engineFor(v);
  const { model, packing } = await openAdapted(source, v.adapter, engine);
  if (v.adapter === undefined) {
    const saved = await saveCheckpoint(await realize(unpacked(model), engine), out);
    return console.log(`wrote ${out}: ${saved.files.join(', ')} (${short(saved.bytes, 'B')})`);
  }
  const kind = await adapterKind(v.adapter);
  const there = await adapterKind(out).catch(() => null);
  if (there !== null && there === kind)
    throw new UsageError(`convert: ${out} holds an adapter of the other kind already; choose another folder`);
  const said = kind === 'peft' ? await toOwn(model, out) : await toPeft(model, out, { engine, baseModel: source });
  const labels = await labelsOf(v.adapter);
  await writePacking(out, packing);
  if (labels !== null) await writeAtomic(join(out, LABELS_FILE), [new TextEncoder().encode(`${JSON.stringify(labels)}\n`)]);
  console.log(said);
}

async function toOwn(model: Model, out: string): Promise<string> {
  const { file, bytes } = await saveAdapter(model, out);
  return `wrote ${file} (${short(bytes, 'B')})`;
}
async function toPeft(model: Model, out: string, options: SaveOptions): Promise<string> {
  const { config, weights, peftType, keys } = await savePeft(model, out, options);
  return `wrote ${config} and ${weights}: ${peftType}, ${keys.length} tensors`;
}
