// What the commands open: a model by folder, repository or GGUF file, and an adapter of either kind on it.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Engine } from '../../core/engine.ts';
import { engines, modes, openEngine } from '../../core/open.ts';
import { type Rng, rng } from '../../core/rng.ts';
import { isJsonObject, parseJson } from '../../io/adapterJson.ts';
import { ADAPTER_FILE, loadAdapter } from '../../io/adapters.ts';
import { type Chat, chatOf, readChat } from '../../io/chat.ts';
import { type CheckpointConfig, isDecoder } from '../../io/checkpoints/config.ts';
import { type Checkpoint, openCheckpoint } from '../../io/checkpoints/open.ts';
import { exists } from '../../io/files.ts';
import { type GgufFile, openGguf } from '../../io/gguf.ts';
import { readGgufModel } from '../../io/ggufLlama.ts';
import { ggufTokenizer } from '../../io/ggufTokenizer.ts';
import { CONFIG_FILE } from '../../io/peft/adapter.ts';
import { ROUTER } from '../../io/peft/arrow.ts';
import { loadPeft } from '../../io/peft/load.ts';
import type { TextTokenizer } from '../../io/tokenizer.ts';
import { backboneOf } from '../../nn/backbone.ts';
import { freeze } from '../../nn/freeze.ts';
import { textClassifier } from '../../nn/heads.ts';
import type { Model } from '../../nn/layer.ts';
import { newLinear } from '../../nn/linear.ts';
import { adapterDrop } from '../../peft/additive/adapterDrop.ts';
import { ssfLinear, ssfNorm } from '../../peft/additive/ssf.ts';
import { methods } from '../../peft/all.ts';
import { embedAndNorm } from '../../peft/hybrid/longlora.ts';
import { noahPrompt } from '../../peft/hybrid/noah.ts';
import type { AnyMade } from '../../peft/listed.ts';
import { packed as packedWeights } from '../../peft/reparameterized/packed.ts';
import { UsageError } from '../usage.ts';
import { oneOf, type Packing } from './flags.ts';
import { packed, packingFor } from './packing.ts';

export interface Opened {
  readonly model: Model; // frozen
  /** Null where the folder has none. */
  readonly tokenizer: TextTokenizer | null;
  readonly chat: Chat | null;
  readonly config: CheckpointConfig;
  /** The checkpoint it is from, for saving one like it; null for GGUF. */
  readonly checkpoint: Checkpoint | null;
}
/** A model with its tokenizer. */
export async function openModel(source: string, dtype: 'float32' | 'keep'): Promise<Opened> {
  if (source.endsWith('.gguf')) {
    await using file = await openGguf(source);
    const { model, architecture, config } = await readGgufModel(file, { dtype });
    const template = file.metadata.get('tokenizer.chat_template');
    const chat = typeof template === 'string' ? chatOf(template, specialOf(file.metadata), source) : null;
    const sizes: CheckpointConfig = { architecture, head: 'language', classes: 0, sizes: config };
    return { model, tokenizer: ggufTokenizer(file.metadata, config.positions, source), chat, config: sizes, checkpoint: null };
  }
  const checkpoint = await openCheckpoint(source, { dtype });
  return {
    model: checkpoint.model,
    tokenizer: checkpoint.tokenizer,
    chat: await readChat(checkpoint.folder),
    config: checkpoint.config,
    checkpoint,
  };
}

/** Begin and end tokens of a GGUF file as texts, for its chat template. */
function specialOf(metadata: GgufFile['metadata']): Readonly<Record<string, string>> {
  const words = metadata.get('tokenizer.ggml.tokens');
  return Object.fromEntries(
    ['bos', 'eos', 'unknown', 'padding'].flatMap((name) => {
      const word = Array.isArray(words) ? words[Number(metadata.get(`tokenizer.ggml.${name}_token_id`) ?? -1)] : undefined;
      return typeof word === 'string' ? [[`${{ bos: 'bos', eos: 'eos', unknown: 'unk', padding: 'pad' }[name]}_token`, word]] : [];
    }),
  );
}

/** What reads and writes texts. */
export interface Reader extends Opened {
  readonly tokenizer: TextTokenizer;
}
export function reader<T extends Opened>(opened: T, source: string): T & Reader {
  const { tokenizer } = opened;
  if (tokenizer === null)
    throw new UsageError(`${source}: has no tokenizer.json, which is needed to read texts; put the model's own there`);
  return { ...opened, tokenizer: ofModel(tokenizer, opened.config.sizes.vocabulary, source) };
}
/** The tokenizer, refused where it answers an id that the model has no row for: then it is another model's. */
function ofModel(tokenizer: TextTokenizer, vocabulary: number, source: string): TextTokenizer {
  const known = (ids: Int32Array): Int32Array => {
    const strange = ids.find((id) => id >= vocabulary);
    if (strange === undefined) return ids;
    throw new UsageError(
      `${source}: its tokenizer and its weights are of different models: ${JSON.stringify(tokenizer.decode([strange], true))} is token ${strange}, and the model has ${vocabulary} (vocab_size in config.json). Put the model's own tokenizer.json there`,
    );
  };
  return { ...tokenizer, encode: (text) => known(tokenizer.encode(text)), plain: (text) => known(tokenizer.plain(text)) };
}

export type AdapterKind = 'peft' | 'own';
/** Which files a folder holds; throws where it holds neither. */
export async function adapterKind(folder: string): Promise<AdapterKind> {
  if (await exists(join(folder, CONFIG_FILE))) return 'peft';
  if (await exists(join(folder, ADAPTER_FILE))) return 'own';
  if (await exists(join(folder, ROUTER, CONFIG_FILE))) return 'peft'; // Arrow, whose router and experts are folders within
  throw new UsageError(`${folder}: is no adapter; it would hold ${CONFIG_FILE} (Hugging Face PEFT) or ${ADAPTER_FILE} (this library)`);
}

/** The labels of a classifier's adapter, in the order of its answers. */
export const LABELS_FILE = 'labels.json';
/** What tinypeft train wrote beside a classifier's adapter; null beside any other adapter. */
export async function labelsOf(adapter: string): Promise<readonly string[] | null> {
  const path = join(adapter, LABELS_FILE);
  const text = await readFile(path, 'utf8').catch((e: NodeJS.ErrnoException) => {
    if (e.code === 'ENOENT' || e.code === 'ENOTDIR') return null;
    throw e;
  });
  if (text === null) return null;
  const json = parseJson(text);
  const labels = Array.isArray(json) ? json.filter((l): l is string => typeof l === 'string') : [];
  if (!Array.isArray(json) || labels.length !== json.length || labels.length < 2 || new Set(labels).size < labels.length)
    throw new Error(`${path}: must be a list of two or more different texts`);
  return labels;
}

/**
 * A fresh classifier's head, as transformers has it for the network: an encoder's first token through a dense layer and tanh, a decoder's last
 * token through a matrix without bias. So the adapter's files mean there what they mean here, and the merged model is a checkpoint.
 */
export function withHead(model: Model, config: CheckpointConfig, classes: number, r: Rng): Model {
  const { width } = config.sizes;
  const head = newLinear(width, classes, r.split('head'), { bias: !isDecoder(config) });
  return isDecoder(config)
    ? textClassifier(backboneOf(model), 'last', null, head)
    : textClassifier(backboneOf(model), 'first', newLinear(width, width, r.split('pooler')), head);
}

export interface Adapted extends Opened {
  /** The classes of a classifier: of the adapter that tinypeft train made, or of the checkpoint itself. */
  readonly labels: readonly string[] | null;
  /** What the base was packed in for it. */
  readonly packing: Packing;
}
/**
 * A model with an adapter on it (and beneath the adapter of a classifier the head that it fills), or as it is where none is named. The base is
 * packed as it was when the adapter was trained, unless `asked` says otherwise.
 */
export async function openAdapted(
  source: string,
  adapter: string | undefined,
  engine: Engine,
  asked: Packing | null = null,
): Promise<Adapted> {
  const kind = adapter === undefined ? null : await adapterKind(adapter); // before the model is read
  const packing = await packingFor(adapter, asked);
  // An adapter of our own may be whole weights (full fine-tuning), which go where numbers are; and what a GGUF file has packed is not packed otherwise.
  const numbers = kind === 'own' || (packing !== 'none' && source.endsWith('.gguf'));
  const opened = await openModel(source, numbers ? 'float32' : 'keep');
  const base = packed(opened.model, packing);
  const own = namesOf(opened);
  if (adapter === undefined) return { ...opened, model: base, labels: own, packing };
  const labels = await labelsOf(adapter);
  const headed = labels === null ? base : freeze(withHead(base, opened.config, labels.length, rng(0)));
  return { ...opened, model: await withAdapter(headed, adapter, engine), labels: labels ?? own, packing };
}

/** Names of the classes of a checkpoint that is a classifier of texts itself; null for any other. */
function namesOf({ config, checkpoint }: Opened): readonly string[] | null {
  if (checkpoint === null || config.head !== 'sequence') return null;
  const { id2label } = checkpoint.json;
  const names = isJsonObject(id2label) ? id2label : {};
  return Array.from({ length: config.classes }, (_, k) => (typeof names[k] === 'string' ? names[k] : `LABEL_${k}`));
}

/** Every method that an adapter of our own format may name. */
export const CONFIGURABLES: readonly AnyMade[] = [
  ...methods.flatMap((m) => m.configurable ?? []),
  ...[adapterDrop, ssfLinear, ssfNorm, packedWeights, embedAndNorm, noahPrompt], // parts of compositions that are not in the list themselves
];

export async function withAdapter(model: Model, folder: string, engine: Engine): Promise<Model> {
  if ((await adapterKind(folder)) === 'peft') return (await loadPeft(model, folder, { engine, warn: (m) => console.error(m) })).model;
  return loadAdapter(model, folder, CONFIGURABLES, { engine });
}

/** The engine of --engine and --mode; says which, and why, on the error output. */
export async function engineFor(choice: {
  readonly engine?: string | null | undefined;
  readonly mode?: string | null | undefined;
}): Promise<Engine> {
  const engine = await openEngine({
    engine: oneOf(choice.engine ?? undefined, 'engine', engines) ?? undefined,
    mode: oneOf(choice.mode ?? undefined, 'mode', modes) ?? undefined,
  });
  const { report: r } = engine;
  console.error(`engine   ${r.engine} (${r.mode})${r.adapter === null ? '' : ` on ${r.adapter}`}: ${r.why}`);
  return engine;
}
