// Writes a model as a checkpoint that Hugging Face transformers loads: config.json and safetensors, in one file or several.
import { randomBytes } from 'node:crypto';
import { cp, mkdir, readdir, rename, rm } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { size } from '../../core/shape.ts';
import type { Data, Tensor } from '../../core/tensor.ts';
import type { Model } from '../../nn/layer.ts';
import { layers } from '../../nn/tree.ts';
import { atHand } from '../../peft/site.ts';
import { widened } from '../../quant/half.ts';
import { some, writeAtomic, writeSafetensors } from '../files.ts';
import { dtypeOf, type Dtype as Stored, WIDTH } from '../numbers.ts';
import type { Writable } from '../safetensors.ts';
import { configJson } from './architectures.ts';
import type { CheckpointConfig, JsonObject } from './config.ts';
import { checkPlaces, packedTensors, quantizationConfig, type SetAside, setAside } from './fourBit.ts';
import { recognise } from './recognise.ts';
import { type Slot, slotsOf, transposed } from './slots.ts';
import { INDEX, WEIGHTS } from './weights.ts';

const FLOATS = { F32: 'float32', F16: 'float16', BF16: 'bfloat16' } as const;
type Dtype = keyof typeof FLOATS;
export interface SaveOptions {
  /** How numbers are stored. Default F32; halves are rounded to the nearest. Weights in four bits stay so, and this is what they unpack to. */
  readonly dtype?: Dtype;
  /** A file holds at most this many bytes of tensors, unless one tensor alone is larger. Default 5 GB, as transformers. */
  readonly shardBytes?: number;
  /** The checkpoint the model was made from: its tokenizer files come along, and what its config.json says beside the network (ids of special tokens, names of classes). */
  readonly from?: { readonly folder: string; readonly json: JsonObject };
  /** Replace a folder that exists. Its other files are kept, its weights and config.json are not. Default false. */
  readonly overwrite?: boolean;
}
export interface SavedCheckpoint {
  readonly config: CheckpointConfig;
  readonly files: readonly string[]; // names of weight files
  readonly bytes: number; // of tensors
}

const TOKENIZER_FILES = [
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'vocab.json',
  'merges.txt',
  'vocab.txt',
  'sentencepiece.bpe.model',
  'tokenizer.model',
  'chat_template.jinja',
  'generation_config.json',
];
/** What a save replaces: everything else in an overwritten folder is kept. */
const REPLACED = /^(config\.json|.*\.safetensors|.*\.bin|.*\.(safetensors|bin)\.index\.json)$/;

/**
 * Writes `folder/config.json` and `model.safetensors` (or numbered files with an index). Tied weights are written once. Everything is
 * written beside the folder first and then renamed, so that a folder of this name is a whole checkpoint or does not exist; with
 * `overwrite` the old folder is moved aside between two renames, and is whole under either name. Matrices packed by nf4 or fp4 are written as
 * bitsandbytes has them. Throws for models with methods attached, recipes, weights packed in other ways, and networks that no architecture of
 * transformers describes, before anything is written.
 */
export async function saveCheckpoint(
  model: Model,
  folder: string,
  { dtype = 'F32', shardBytes = 5e9, from, overwrite = false }: SaveOptions = {},
): Promise<SavedCheckpoint> {
  if (!(shardBytes > 0)) throw new RangeError(`saveCheckpoint: shardBytes ${shardBytes} must be above 0`);
  checkPlain(model);
  const aside = setAside(widened(model));
  const config = recognise(aside.model);
  const { slots, homeless } = slotsOf(aside.model, config);
  if (homeless.length > 0) throw new Error(`saveCheckpoint: ${config.architecture} has no place for ${some(homeless)}`);
  checkPlaces(slots, aside.packed);
  const bits = quantizationConfig(slots, aside.packed, config, FLOATS[dtype], from?.json.quantization_config);
  const json = { ...configFor(config, dtype, from?.json), ...bits };
  const target = resolve(folder);
  const old = await readdir(target).catch((e: NodeJS.ErrnoException) => {
    if (e.code === 'ENOENT') return null;
    throw e.code === 'ENOTDIR' ? new Error(`saveCheckpoint: ${folder} is a file; choose another name for the folder`) : e;
  });
  if (old !== null && old.length > 0 && !overwrite)
    throw new Error(
      `saveCheckpoint: ${folder} exists and holds ${some(old)}; choose another folder, or pass overwrite: true to replace its weights`,
    );
  const mark = randomBytes(6).toString('hex');
  const beside = (what: string): string => join(dirname(target), `.${basename(target)}.${mark}.${what}`);
  const fresh = beside('tmp');
  await mkdir(fresh, { recursive: true });
  try {
    for (const name of old ?? []) if (!REPLACED.test(name)) await cp(join(target, name), join(fresh, name), { recursive: true });
    if (from !== undefined)
      for (const name of TOKENIZER_FILES) await cp(join(from.folder, name), join(fresh, name), { dereference: true }).catch(absent);
    const written = await writeWeights(fresh, tensorsOf(slots, aside.packed, dtype), shardBytes);
    await writeText(join(fresh, 'config.json'), json);
    if (old !== null) await rename(target, beside('old'));
    await rename(fresh, target);
    if (old !== null) await rm(beside('old'), { recursive: true });
    return { config, ...written };
  } catch (e) {
    await rm(fresh, { recursive: true, force: true }).catch(() => {}); // the first error is the one to tell
    if (old !== null) await rename(beside('old'), target).catch(() => {}); // where it had been moved aside already
    throw e;
  }
}
const absent = (e: NodeJS.ErrnoException): void => {
  if (e.code !== 'ENOENT') throw e;
};
const writeText = (path: string, json: JsonObject): Promise<void> =>
  writeAtomic(path, [new TextEncoder().encode(`${JSON.stringify(json, null, 2)}\n`)]);

function checkPlain(model: Model): void {
  for (const { path, layer } of layers(model))
    if (layer.attached !== null)
      throw new Error(
        `saveCheckpoint: ${layer.attached.method} is attached at ${path === '' ? 'the model' : path}; save \`await realize(merge(model), engine)\` for a checkpoint, or the methods alone with saveAdapter`,
      );
}

/** What the old config.json says about anything but the network stays; the network is as it is now. */
function configFor(config: CheckpointConfig, dtype: Dtype, before: JsonObject = {}): JsonObject {
  const now = configJson(config);
  const kind = before.model_type === 'xlm-roberta' && config.architecture === 'roberta' ? 'xlm-roberta' : config.architecture;
  const own = kind === config.architecture ? now : configJson({ ...config, architecture: kind } as CheckpointConfig); // the same network under another name
  const kept = before.model_type === kind ? before : {};
  const { quantization_config: _, torch_dtype: __, ...rest } = kept;
  const named = typeof rest.id2label === 'object' && rest.id2label !== null && Object.keys(rest.id2label).length === config.classes;
  const names = named ? { id2label: rest.id2label!, label2id: rest.label2id ?? {} } : {};
  return { ...rest, ...own, ...names, dtype: FLOATS[dtype] };
}

/** Numbers of a model under the names transformers has for them; `count` is how many of its weights they are. */
function* tensorsOf(
  slots: readonly Slot[],
  packed: SetAside['packed'],
  dtype: Dtype,
): Generator<Writable & { readonly name: string; readonly dtype: Stored; readonly count: number }> {
  const byName = new Map<string, Slot[]>();
  for (const s of slots) byName.set(s.name, [...(byName.get(s.name) ?? []), s]);
  for (const [name, parts] of byName) {
    const { shape, turned } = parts[0]!;
    const count = size(shape);
    const p = parts.map((s) => packed.get(s.tensor)).find((w) => w !== undefined);
    if (p !== undefined) {
      for (const [full, w] of packedTensors(parts[0]!, p, FLOATS[dtype]))
        yield { ...w, name: full, dtype: dtypeOf(w.data), count: full === name ? count : 0 };
      continue;
    }
    const whole = parts.length === 1 && parts[0]!.rows === null ? numbers(parts[0]!) : stacked(parts);
    const [n, m] = shape as readonly [number, number];
    yield { name, data: turned ? transposed(whole, m, n) : whole, shape, dtype, count };
  }
}
const numbers = ({ path, tensor }: { readonly path: string; readonly tensor: Tensor }): Data => {
  const data = atHand(tensor);
  if (data === null) throw new Error(`saveCheckpoint: ${path} is a recipe, not numbers yet; save \`await realize(model, engine)\` instead`);
  return data;
};
/** q, k and v on top of each other, where theirs is one matrix. */
function stacked(parts: readonly Slot[]): Data {
  const out = new Float32Array(parts[0]!.shape.reduce((n, d) => n * d, 1));
  for (const p of parts) out.set(numbers(p), (out.length / p.rows!.of) * p.rows!.from);
  return out;
}

async function writeWeights(
  folder: string,
  all: ReturnType<typeof tensorsOf>,
  shardBytes: number,
): Promise<Pick<SavedCheckpoint, 'files' | 'bytes'>> {
  const shards: Map<string, Writable>[] = [];
  let [room, bytes, numbersInAll] = [0, 0, 0];
  for (const { name, data, shape, dtype, count } of all) {
    const length = data.length * WIDTH[dtype];
    if (shards.length === 0 || length > room) {
      shards.push(new Map());
      room = shardBytes;
    }
    shards.at(-1)!.set(name, { data, shape, dtype });
    room -= length;
    bytes += length;
    numbersInAll += count;
  }
  const metadata = new Map([['format', 'pt']]); // transformers asks for it
  const number = (k: number): string => String(k).padStart(5, '0');
  const nameOf = (k: number): string => (shards.length === 1 ? WEIGHTS : `model-${number(k + 1)}-of-${number(shards.length)}.safetensors`);
  for (const [k, shard] of shards.entries()) await writeSafetensors(join(folder, nameOf(k)), shard, metadata);
  if (shards.length > 1) {
    const map = shards.flatMap((s, k) => [...s.keys()].map((name) => [name, nameOf(k)] as const)).sort(([a], [b]) => (a < b ? -1 : 1));
    await writeText(join(folder, INDEX), {
      metadata: { total_parameters: numbersInAll, total_size: bytes },
      weight_map: Object.fromEntries(map),
    });
  }
  return { files: shards.map((_, k) => nameOf(k)), bytes };
}
