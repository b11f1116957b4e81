// What the commands open: a model by folder, repository or GGUF file, and an adapter of either kind on it.
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import type { Engine } from '../../core/engine.ts';
import { type EngineChoice, openEngine } from '../../core/open.ts';
import { ADAPTER_FILE, loadAdapter } from '../../io/adapters.ts';
import { type Chat, chatOf, readChat } from '../../io/chat.ts';
import type { CheckpointConfig } from '../../io/checkpoints/config.ts';
import { type Checkpoint, openCheckpoint } from '../../io/checkpoints/open.ts';
import { openGguf } from '../../io/gguf.ts';
import { readGgufModel } from '../../io/ggufLlama.ts';
import { ggufTokenizer } from '../../io/ggufTokenizer.ts';
import { CONFIG_FILE } from '../../io/peft/adapter.ts';
import { loadPeft } from '../../io/peft/load.ts';
import type { TextTokenizer } from '../../io/tokenizer.ts';
import type { Model } from '../../nn/layer.ts';
import { methods } from '../../peft/all.ts';
import type { AnyMade } from '../../peft/listed.ts';
import { int2, int4 } from '../../quant/affine.ts';
import { doubleQuant } from '../../quant/doubleQuant.ts';
import { int8 } from '../../quant/int8.ts';
import { fp4, nf4 } from '../../quant/nf4.ts';
import type { Scheme } from '../../quant/quantize.ts';
import { UsageError } from '../usage.ts';

export interface Opened {
  readonly model: Model; // frozen
  readonly tokenizer: TextTokenizer;
  readonly chat: Chat | null;
  readonly config: CheckpointConfig;
  /** The checkpoint it is from, for saving one like it; null for GGUF. */
  readonly checkpoint: Checkpoint | null;
}
export const SCHEMES: Readonly<Record<string, () => Scheme>> = {
  nf4: () => nf4(),
  'nf4-double': () => nf4({ scales: doubleQuant() }),
  fp4: () => fp4(),
  int8: () => int8(),
  int4: () => int4(),
  int2: () => int2(),
};

/** A model with its tokenizer. With `withoutHead`, a classifier's head is left aside. */
export async function openModel(
  source: string,
  { withoutHead = false, dtype = 'float32' }: { withoutHead?: boolean; dtype?: 'float32' | 'keep' } = {},
): Promise<Opened> {
  if (source.endsWith('.gguf')) {
    await using file = await openGguf(source);
    const { model, config } = await readGgufModel(file, { dtype });
    const template = file.metadata.get('tokenizer.chat_template');
    const chat = typeof template === 'string' ? chatOf(template, {}, source) : null;
    const sizes: CheckpointConfig = { architecture: 'llama', head: 'language', classes: 0, sizes: config };
    return { model, tokenizer: ggufTokenizer(file.metadata, config.positions, source), chat, config: sizes, checkpoint: null };
  }
  const checkpoint = await openCheckpoint(source, { withoutHead, dtype });
  if (checkpoint.tokenizer === null) throw new UsageError(`${source}: has no tokenizer.json, which the commands need to read texts`);
  return {
    model: checkpoint.model,
    tokenizer: checkpoint.tokenizer,
    chat: await readChat(checkpoint.folder),
    config: checkpoint.config,
    checkpoint,
  };
}

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );
export type AdapterKind = 'peft' | 'own';
/** Which files a folder holds; throws where it holds neither. */
export async function adapterKind(folder: string): Promise<AdapterKind> {
  if (await exists(join(folder, CONFIG_FILE))) return 'peft';
  if (await exists(join(folder, ADAPTER_FILE))) return 'own';
  throw new UsageError(`${folder}: is no adapter; it would hold ${CONFIG_FILE} (Hugging Face PEFT) or ${ADAPTER_FILE} (this library)`);
}

/** Every method that an adapter of our own format may name. */
export const CONFIGURABLES: readonly AnyMade[] = methods.flatMap((m) => m.configurable ?? []);

export async function withAdapter(model: Model, folder: string, engine: Engine): Promise<Model> {
  if ((await adapterKind(folder)) === 'peft') return (await loadPeft(model, folder, { engine, warn: (m) => console.error(m) })).model;
  return loadAdapter(model, folder, CONFIGURABLES);
}

/** The engine of --engine and --mode; says which, and why, on the error output. */
export async function engineFor(choice: {
  readonly engine?: string | null | undefined;
  readonly mode?: string | null | undefined;
}): Promise<Engine> {
  const engine = await openEngine({ engine: choice.engine ?? undefined, mode: choice.mode ?? undefined } as EngineChoice);
  const { report: r } = engine;
  console.error(`engine   ${r.engine} (${r.mode})${r.adapter === null ? '' : ` on ${r.adapter}`}: ${r.why}`);
  return engine;
}
