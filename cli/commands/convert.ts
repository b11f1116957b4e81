// `tinypeft convert`: adapters between this library's files and Hugging Face PEFT's, and a GGUF file into a checkpoint.
import { join, relative } from 'node:path';
import { short } from '../../core/account.ts';
import { ADAPTER_FILE, ADAPTER_TEXT, saveAdapter } from '../../io/adapters.ts';
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

  --json          the result as one JSON object
${ENGINE_HELP}`;

export async function convertCommand(args: readonly string[]): Promise<void> {
  const { values: v } = parsed('convert', {
    args: [...args],
    options: {
      model: { type: 'string' },
      adapter: { type: 'string' },
      out: { type: 'string' },
      json: { type: 'boolean', default: false },
      ...ENGINE_FLAGS,
      ...HELP_FLAG,
    },
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
    if (v.json) return console.log(JSON.stringify({ out, kind: 'checkpoint', files: saved.files, bytes: saved.bytes }));
    return console.log(`wrote ${out}: ${saved.files.join(', ')} (${short(saved.bytes, 'B')})`);
  }
  const kind = await adapterKind(v.adapter);
  const there = await adapterKind(out).catch(() => null);
  if (there !== null && there === kind)
    throw new UsageError(`convert: ${out} holds an adapter of the other kind already; choose another folder`);
  const written = kind === 'peft' ? await toOwn(model, out) : await toPeft(model, out, { engine, baseModel: source });
  const labels = await labelsOf(v.adapter);
  await writePacking(out, packing);
  if (labels !== null) await writeAtomic(join(out, LABELS_FILE), [new TextEncoder().encode(`${JSON.stringify(labels)}\n`)]);
  console.log(
    v.json ? JSON.stringify({ out, kind: kind === 'peft' ? 'own' : 'peft', files: written.files, quantize: packing }) : written.said,
  );
}
interface Converted {
  readonly files: readonly string[]; // names in the folder
  readonly said: string;
}

async function toOwn(model: Model, out: string): Promise<Converted> {
  const { file, bytes } = await saveAdapter(model, out);
  return { files: [ADAPTER_FILE, ADAPTER_TEXT], said: `wrote ${file} (${short(bytes, 'B')})` };
}
async function toPeft(model: Model, out: string, options: SaveOptions): Promise<Converted> {
  const { config, weights, peftType, keys } = await savePeft(model, out, options);
  return {
    files: [config, weights].map((path) => relative(out, path)),
    said: `wrote ${config} and ${weights}: ${peftType}, ${keys.length} tensors`,
  };
}
