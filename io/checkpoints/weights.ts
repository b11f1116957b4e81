// The tensors of a checkpoint's folder: one safetensors file, or several with an index, checked against the network they are for.
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { same, show } from '../../core/shape.ts';
import { leaf } from '../../core/tensor.ts';
import type { Field, Layer, Model } from '../../nn/layer.ts';
import { weight } from '../../nn/linear.ts';
import { substitute } from '../../nn/tree.ts';
import { halfWeight } from '../../quant/half.ts';
import { isJsonObject, parseJson } from '../adapterJson.ts';
import { fourBitNames, fourBitParts, readFourBit } from '../bitsandbytes.ts';
import { mustBeFile, openSafetensors, some, type TensorFile } from '../files.ts';
import type { Entry } from '../safetensors.ts';
import { type CheckpointConfig, isDecoder } from './config.ts';
import { type Slot, type Slots, slotsOf, transposed } from './slots.ts';

export const WEIGHTS = 'model.safetensors';
export const INDEX = 'model.safetensors.index.json';
const SHARD = /^[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors$/;

/** Which tensor is in which file, from an index: names of files are names in the same folder, nothing else. */
export function parseIndex(text: string, file: string): ReadonlyMap<string, string> {
  const json = parseJson(text);
  const map = isJsonObject(json) ? json.weight_map : undefined;
  if (!isJsonObject(map)) throw new Error(`${file}: has no weight_map of tensor names to file names`);
  for (const [name, shard] of Object.entries(map))
    if (typeof shard !== 'string' || !SHARD.test(shard))
      throw new Error(
        `${file}: puts ${name} into ${JSON.stringify(shard)}, which is not the name of a .safetensors file in the same folder`,
      );
  return new Map(Object.entries(map) as [string, string][]);
}

interface Held {
  readonly file: TensorFile;
  readonly entry: Entry;
}
export interface Weights extends AsyncDisposable {
  readonly at: string; // what errors call it: the file, or the folder of several
  readonly entries: ReadonlyMap<string, Held>;
}

/** Opens a folder's safetensors files and reads their headers. Throws when the index and the files disagree. */
export async function openWeights(folder: string): Promise<Weights> {
  const all = (await readdir(folder)).filter((f) => f.endsWith('.safetensors') || f === INDEX || f.endsWith('.bin'));
  if (!all.includes(WEIGHTS) && all.includes(INDEX)) return openShards(folder);
  const single = all.filter((f) => f.endsWith('.safetensors'));
  const chosen = single.includes(WEIGHTS) ? WEIGHTS : single[0];
  if (chosen === undefined) {
    const pickled = all.filter((f) => f.endsWith('.bin'));
    throw new Error(
      `${folder}: holds no .safetensors file${pickled.length > 0 ? ` (but ${some(pickled)})` : ''}. A checkpoint in another format (pytorch_model.bin) has to be saved as safetensors first: AutoModel.from_pretrained(…).save_pretrained(…, safe_serialization=True) in Python`,
    );
  }
  if (single.length > 1 && chosen !== WEIGHTS)
    throw new Error(
      `${folder}: holds several .safetensors files (${some(single)}) and no ${INDEX}; keep one, or name the one to load ${WEIGHTS}`,
    );
  const file = await openSafetensors(join(folder, chosen));
  const entries = new Map([...file.entries.values()].map((entry) => [entry.name, { file, entry }]));
  return { at: file.path, entries, [Symbol.asyncDispose]: () => file.close() };
}

async function openShards(folder: string): Promise<Weights> {
  const path = join(folder, INDEX);
  await mustBeFile(path);
  const index = parseIndex(await readFile(path, 'utf8'), path);
  const files = new Map<string, TensorFile>();
  const close = async (): Promise<void> => {
    for (const f of files.values()) await f.close();
  };
  try {
    for (const shard of new Set(index.values()))
      files.set(
        shard,
        await openSafetensors(join(folder, shard)).catch((e: NodeJS.ErrnoException) => {
          throw e.code === 'ENOENT'
            ? new Error(`${path}: names ${shard}, which is not in the folder; the download is incomplete, fetch that file again`)
            : e;
        }),
      );
    const entries = new Map<string, Held>();
    for (const [shard, file] of files)
      for (const entry of file.entries.values()) {
        if (index.get(entry.name) !== shard)
          throw new Error(
            `${file.path}: holds ${entry.name}, which ${INDEX} ${index.has(entry.name) ? `puts into ${index.get(entry.name)}` : 'does not name'}; the files are of different checkpoints, fetch them again`,
          );
        entries.set(entry.name, { file, entry });
      }
    for (const [name, shard] of index)
      if (!entries.has(name))
        throw new Error(`${files.get(shard)!.path}: has no ${name}, which ${INDEX} puts there; fetch that file again`);
    return { at: folder, entries, [Symbol.asyncDispose]: close };
  } catch (e) {
    await close();
    throw e;
  }
}

/** Tensors that checkpoints carry and the network here does not need: buffers that are computed, and heads of other tasks. */
const UNUSED: Readonly<Record<CheckpointConfig['architecture'], RegExp>> = {
  gpt2: /^h\.\d+\.attn\.(bias|masked_bias)$/,
  llama: /\.rotary_emb\.inv_freq$/,
  qwen2: /\.rotary_emb\.inv_freq$/,
  bert: /^(embeddings\.(position_ids|token_type_ids)|pooler\.|cls\.|classifier\.|qa_outputs\.)/,
  roberta: /^(embeddings\.(position_ids|token_type_ids)|pooler\.|lm_head\.|classifier\.|qa_outputs\.)/,
  'xlm-roberta': /^(embeddings\.(position_ids|token_type_ids)|pooler\.|lm_head\.|classifier\.|qa_outputs\.)/,
};
/** Old checkpoints call a norm's gain and shift gamma and beta. */
const modern = (name: string): string =>
  name.replace(/LayerNorm\.gamma$/, 'LayerNorm.weight').replace(/LayerNorm\.beta$/, 'LayerNorm.bias');

/** Matrices of halves: kept in two bytes a number and widened where they are used, or widened to float32 when they are read. */
export type Kept = 'float32' | 'keep';

/**
 * The network with the checkpoint's numbers, frozen. Throws when they do not fit: every missing, unknown, misshapen or doubled tensor
 * by name, and what to do.
 */
export async function filled(network: Model, c: CheckpointConfig, weights: Weights, dtype: Kept): Promise<Model> {
  const places = slotsOf(network, c);
  const plain = (name: string): string => (name.startsWith(places.prefix) ? name.slice(places.prefix.length) : name);
  const held = new Map<string, Held>();
  const wrong: string[] = [];
  const packed = new Set(fourBitNames(weights.entries.keys()));
  const parts = new Set([...packed].flatMap((name) => fourBitParts(name, weights.entries.keys())));
  for (const [name, h] of weights.entries) {
    if (parts.has(name)) continue;
    const key = modern(plain(name));
    const other = held.get(key);
    if (other !== undefined) wrong.push(`twice: ${other.entry.name} and ${name}`);
    held.set(key, h);
  }
  const wanted = new Map(places.slots.map((s) => [plain(s.name), s]));
  check(wanted, held, c, places, wrong, packed);
  if (isDecoder(c) && c.head === 'language' && c.sizes.tied && held.has('lm_head.weight') && wrong.length === 0)
    if (!(await equal(held.get('lm_head.weight')!, held.get(plain(places.slots.find((s) => s.path === 'embed.weight')!.name))!)))
      wrong.push('lm_head.weight differs from the embedding, but config.json says tie_word_embeddings: true; set it to false to load both');
  if (wrong.length > 0)
    throw new Error(`${weights.at}: these are not the weights config.json describes:\n  ${wrong.slice(0, 12).join('\n  ')}`);
  const made = new Map<Field, Layer<'weight'>>();
  for (const [name, slot] of wanted)
    made.set(
      slot.tensor,
      packed.has(held.get(name)!.entry.name)
        ? await unpackedBy(weights, held.get(name)!.entry.name, slot)
        : await weightOf(held.get(name)!, slot, dtype),
    );
  return substitute(network, 'weight', (l) => made.get(l.fields.value ?? null) ?? null);
}

function check(
  wanted: ReadonlyMap<string, Slot>,
  held: ReadonlyMap<string, Held>,
  c: CheckpointConfig,
  places: Slots,
  wrong: string[],
  packed: ReadonlySet<string>,
): void {
  const missing = [...wanted]
    .filter(([n]) => !held.has(n))
    .map(([n, s]) => ([...held.values()].some((h) => h.entry.name.startsWith(places.prefix)) ? s.name : n));
  const tied = isDecoder(c) && c.sizes.tied;
  const spare = (n: string): boolean => UNUSED[c.architecture].test(n) || (tied && n === 'lm_head.weight');
  const unknown = [...held].filter(([n]) => !wanted.has(n) && !spare(n)).map(([, h]) => h.entry.name);
  if (missing.length > 0) {
    const remedy = missing.includes('lm_head.weight')
      ? ' (set tie_word_embeddings to true in config.json if the head is the embedding)'
      : '';
    wrong.push(`missing: ${some(missing)}${remedy}`);
  }
  if (unknown.length > 0) wrong.push(`unknown: ${some(unknown)}`);
  for (const [name, s] of wanted) {
    const e = held.get(name)?.entry;
    if (e === undefined) continue;
    if (packed.has(e.name)) {
      if (s.rows !== null || s.kind !== 'linear' || s.shape.length !== 2)
        wrong.push(`${e.name} is packed in four bits, which is only read for whole linear layers`);
    } else if (!same(e.shape, s.shape)) wrong.push(`${e.name} is ${show(e.shape)}, by config.json it should be ${show(s.shape)}`);
    else if (!e.dtype.includes('F')) wrong.push(`${e.name} holds ${e.dtype}, not floating-point numbers`);
  }
}

async function equal(a: Held, b: Held): Promise<boolean> {
  const [x, y] = [await a.file.bytes(a.entry.name), await b.file.bytes(b.entry.name)];
  return a.entry.dtype === b.entry.dtype && Buffer.compare(x, y) === 0;
}

/** A weight in bitsandbytes' four bits, which stays packed; its parts may be in several files. */
async function unpackedBy(weights: Weights, name: string, { tensor: { shape } }: Slot): Promise<Layer<'weight'>> {
  const of = (n: string): Held => weights.entries.get(n)!; // asked for only where it is there
  const layer = await readFourBit(
    {
      path: weights.at,
      entries: new Map([...weights.entries].map(([n, { entry }]) => [n, entry])),
      read: (n) => of(n).file.read(n),
      bytes: (n) => of(n).file.bytes(n),
    },
    name,
  );
  const own = layer().shape;
  if (!same(own, shape)) throw new Error(`${weights.at}: ${name} unpacks to ${show(own)}, by config.json it should be ${show(shape)}`);
  return layer;
}

/** One tensor as a layer: numbers, or the bytes of a matrix of halves as they are. */
async function weightOf({ file, entry }: Held, s: Slot, dtype: Kept): Promise<Layer<'weight'>> {
  const [n, m] = s.shape as readonly [number, number];
  if (dtype === 'keep' && s.shape.length === 2 && (entry.dtype === 'F16' || entry.dtype === 'BF16')) {
    const bytes = await file.bytes(entry.name);
    const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
    const own = s.turned ? transposed(halves, n, m) : halves;
    try {
      return halfWeight(new Uint8Array(own.buffer, own.byteOffset, own.byteLength), s.tensor.shape, entry.dtype === 'F16' ? 'f16' : 'bf16');
    } catch (e) {
      throw new Error(`${file.path}: ${entry.name}: ${(e as Error).message}`, { cause: e });
    }
  }
  const data = await file.read(entry.name);
  return weight(leaf(s.turned ? transposed(data, n, m) : data, s.tensor.shape));
}
