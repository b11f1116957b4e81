// Writing an adapter as Hugging Face PEFT does: adapter_config.json and adapter_model.safetensors, which `PeftModel.from_pretrained` opens.
import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Engine } from '../../core/engine.ts';
import { halvesAtHand } from '../../core/halves.ts';
import { same } from '../../core/shape.ts';
import { paramOf } from '../../core/tensor.ts';
import { realize } from '../../nn/freeze.ts';
import { type AnyLayer, isLayer, type Model, ofKind } from '../../nn/layer.ts';
import { layers, tensors } from '../../nn/tree.ts';
import { asLora } from '../../peft/reparameterized/pissa.ts';
import { bare } from '../../peft/site.ts';
import type { Json } from '../adapterJson.ts';
import { some, writeAtomic, writeSafetensors } from '../files.ts';
import { type Architecture, type Names, namesOf, type Place } from '../names.ts';
import type { Dtype } from '../numbers.ts';
import type { Writable } from '../safetensors.ts';
import {
  CONFIG_FILE,
  keyOf,
  type Options,
  PARTS,
  type PeftFiles,
  placesFor,
  ROOT,
  shown,
  sizeOf,
  tableOf,
  WEIGHTS_FILE,
} from './adapter.ts';
import { attachmentsOf, equal, type Found, formatsOn, spot, whole } from './attachments.ts';
import { baseKeys, turnedTable } from './base.ts';
import type { Common, Task } from './config.ts';
import { expertsToWrite } from './experts.ts';
import { type AnyFormat, type At, partsOf, type Table, Unsupported } from './format.ts';
import { PEFT_FORMATS } from './formats.ts';
import { understood } from './load.ts';
import { dumpsPython } from './pythonJson.ts';
import { namedShortly, targetsIn } from './targets.ts';

export interface SaveOptions {
  /** What `loadPeft` answered: its configuration, number types and embeddings are written again. */
  readonly like?: PeftFiles;
  readonly formats?: readonly AnyFormat[];
  readonly architecture?: Architecture;
  /** Computes prompts that an encoder makes. */
  readonly engine?: Engine;
  /** Name or path of the base model, for whoever loads the adapter. */
  readonly baseModel?: string;
  readonly task?: Task;
  /** Whether an adapter with another configuration in the folder may be replaced; one with the same always is, at one moment. */
  readonly replace?: boolean;
  /** Number type of the tensors: F32 when not given. */
  readonly dtype?: 'F32' | 'F16' | 'BF16';
}
export interface SavedPeft {
  readonly config: string;
  readonly weights: string;
  readonly peftType: string;
  readonly keys: readonly string[];
}

/** Methods that change the weight beneath at their start; written as an ordinary LoRA of twice the rank on the untouched weight. */
const TAKEN_OUT = ['pissa', 'olora', 'corda', 'loraGa'] as const;

/**
 * Writes the one method that is attached to a model as Hugging Face PEFT would, and whatever is trainable in the network itself: heads and other
 * modules whole (modules_to_save), biases beside an adapted weight (bias). The folder is made when missing. An adapter of the same configuration
 * that is there is replaced wholly or not at all, whenever the process is killed; one of another is refused. X-LoRA and Arrow come with their experts,
 * each in a folder beneath this one; killed before the last of these is written, there is no configuration. PiSSA, OLoRA, CorDA and LoRA-GA
 * become a LoRA of twice the rank that needs no changed base. Throws when the method has no file there, or two methods are attached, with what to
 * do instead.
 */
export async function savePeft(model: Model, folder: string, options: SaveOptions = {}): Promise<SavedPeft> {
  const files = await filesOf(model, folder, options);
  const texts: (string | null)[] = [];
  for (const f of files) {
    const before = await readFile(f.config, 'utf8').catch((e: NodeJS.ErrnoException) => (e.code === 'ENOENT' ? null : Promise.reject(e)));
    if (before !== null && before !== f.text && options.replace !== true)
      throw new Error(
        `savePeft: ${f.folder} holds an adapter with another configuration, and its two files cannot be replaced at one moment. Choose another folder, pass replace: true, or after loadPeft pass like: loaded.files`,
      );
    texts.push(before);
  }
  const stays = (k: number): boolean => texts[k] === files[k]!.text && (files.length === 1 || k < files.length - 1); // several folders are not replaced at one moment
  for (const [k, f] of [...files.entries()].reverse()) if (!stays(k)) await rm(f.config, { force: true }); // killed from here on, the folder is an adapter without a configuration, which nobody opens by mistake
  for (const [k, f] of files.entries()) {
    await mkdir(f.folder, { recursive: true });
    await writeSafetensors(f.weights, f.tensors, new Map([['format', 'pt']]));
    if (!stays(k)) await writeAtomic(f.config, [new TextEncoder().encode(f.text)]);
  }
  const { config, weights, peftType, tensors: all } = files.at(-1)!;
  return { config, weights, peftType, keys: [...all.keys()].sort() };
}

/** What the two files of one folder will hold. */
interface Files {
  readonly folder: string;
  readonly config: string;
  readonly weights: string;
  readonly peftType: string;
  readonly text: string;
  readonly tensors: ReadonlyMap<string, Writable>;
}
/** Everything to be written, made before anything is: an adapter's own files come last, after its experts'. */
async function filesOf(model: Model, folder: string, options: SaveOptions): Promise<readonly Files[]> {
  const { like, formats = PEFT_FORMATS, engine } = options;
  const raw = like !== undefined && typeof like.config.init_lora_weights === 'string';
  const ready = raw ? model : await untaken(model, engine);
  const all = formatsOn(ready, formats, like?.config.peft_type);
  const [format] = all as readonly [AnyFormat];
  const names = namesOf(ready, options.architecture);
  const refused = format.refuses?.(shown(names), null) ?? null;
  if (refused !== null) throw new Error(`savePeft: ${refused}`);
  const found = await attachmentsOf(ready, all, names, engine, like);
  const parts = all.map((f, k): Part => {
    const pieces = whole(f, found[k]!, ready);
    return {
      format: f,
      pieces,
      at: pieces.map(({ place, path, options: o }) => ({ module: place?.module ?? '', path, place, options: o })),
    };
  });
  const written = new Map<string, Table>();
  for (const { format: f, pieces } of parts) {
    const places = pieces.flatMap((p) => p.place ?? []);
    for (const p of pieces)
      for (const [suffix, table] of Object.entries(f.encode(p.own, spot(ready, p, places)))) put(written, keyOf(p.place, suffix), table);
  }
  const task = options.task ?? taskOf(names, ready);
  const base = baseOf(names, found.flat(), task, like);
  for (const [key, table] of [...base.tables, ...(like?.useless ?? [])]) put(written, key, table);
  let config =
    like === undefined ? fresh(parts, names, ready, base, folder, { ...options, task }) : again(like, parts, formats, names, ready);
  if (like === undefined) for (const [key, table] of along(config, parts)) put(written, key, table);
  const asBefore = (key: string): string =>
    like?.dtypes.has(key) === false && like.dtypes.has(key.replace(ROOT, '')) ? key.replace(ROOT, '') : key;
  const writable = new Map(
    [...written].map(([key, t]) => [asBefore(key), stored(t, like?.dtypes.get(asBefore(key)) ?? t.dtype ?? options.dtype ?? 'F32')]),
  );
  if (like !== undefined) sameKeys(like, writable);
  const experts: Files[] = [];
  const { over } = format;
  if (over !== undefined) {
    const { experts: each, changed } = expertsToWrite(over, over.named(config as unknown as Common), found[0]!, ready, like);
    for (const { name, model: one, like: its } of each) {
      const { like: _, ...rest } = options;
      experts.push(...(await filesOf(one, join(folder, name), { ...rest, task, ...(its === undefined ? {} : { like: its }) })));
    }
    if (changed && like !== undefined) config = { ...config, ...over.moved(config, folder) };
  }
  const real = new Set(Object.entries(format.fields).flatMap(([k, f]) => (f.real ? [k] : [])));
  const own = join(folder, over?.folder ?? '');
  return [
    ...experts,
    {
      folder: own,
      config: join(own, CONFIG_FILE),
      weights: join(own, WEIGHTS_FILE),
      peftType: format.peftType,
      text: dumpsPython(config, like?.written, real),
      tensors: writable,
    },
  ];
}

/** Starts that were taken out of the weight, turned into what needs no changed weight. */
async function untaken(model: Model, engine: Engine | undefined): Promise<Model> {
  for (const name of TAKEN_OUT) {
    if (![...layers(model)].some(({ layer }) => layer.attached?.method === name)) continue;
    if (engine === undefined)
      throw new Error(
        `savePeft: ${name} has changed the weights beneath, and turning it into an ordinary LoRA takes an engine: savePeft(model, folder, { engine })`,
      );
    return realize(asLora(model, name), engine);
  }
  return model;
}

/** One method of those in a file: what is attached, and where. */
interface Part {
  readonly format: AnyFormat;
  readonly pieces: readonly Found[];
  readonly at: readonly At<Options>[];
}

function put(into: Map<string, Table>, key: string, table: Table): void {
  const known = into.get(key);
  if (known !== undefined && !(same(known.shape, table.shape) && equal(known.data, table.data)))
    throw new Error(`savePeft: ${key} is one tensor for all layers, but two layers here hold different ones`);
  into.set(key, table);
}
const stored = ({ data, shape }: Table, dtype: Dtype): Writable => ({
  data,
  shape,
  dtype: data instanceof Int32Array && dtype === 'F32' ? 'I32' : dtype,
});

interface BaseParts {
  readonly tables: ReadonlyMap<string, Table>;
  readonly modules: readonly string[]; // saved whole
  readonly biases: boolean; // of adapted layers, trained
}
/** What of the network itself goes into the file: what is trainable, and what the file had that it is like. */
function baseOf(names: Names, found: readonly Found[], task: Task, like: PeftFiles | undefined): BaseParts {
  const tables = new Map<string, Table>();
  const modules: string[] = [];
  const adapted = new Map(found.filter((f) => f.place !== null).map((f) => [f.place!.path, f.place!]));
  let biases = false;
  const shown = new Set<unknown>();
  for (const p of names.places) {
    const parts = PARTS.flatMap((part) => {
      const l = p.layer.fields[part];
      return isLayer(l) ? [{ part, l, trained: trainedIn(l) }] : [];
    });
    for (const { part, l } of parts) for (const key of baseKeys(p, part)) if (like?.dtypes.has(key)) tables.set(key, table(p, l, part));
    if (like !== undefined) continue;
    // A classifier's file always has its head: who loads it puts one on a fresh model.
    const head = (task === 'SEQ_CLS' || task === 'TOKEN_CLS') && (p.path === 'head' || p.module.startsWith('classifier.'));
    const trained = parts.filter((x) => (x.trained || head) && !shown.has(x.l));
    if (trained.length === 0) continue;
    for (const { l } of parts) shown.add(l);
    if (p.rows !== null)
      throw new Error(
        `savePeft: ${p.path} is trainable, and in Hugging Face's GPT-2 it is a part of ${p.module}; build the model with fusedQkv: true`,
      );
    if (adapted.has(p.path)) {
      if (trained.some((x) => x.part !== 'bias'))
        throw new Error(
          `savePeft: ${p.path} is adapted and its weight is trainable besides, which no file of Hugging Face PEFT holds; freeze(model) before attaching`,
        );
      biases = true;
      continue;
    }
    const [first] = p.module.split('.');
    if (first !== 'classifier') modules.push(p.module);
    else if (!modules.includes(first)) modules.push(first);
    for (const { part, l } of parts) tables.set(`${ROOT}${p.module}.${part}`, table(p, l, part));
  }
  if (biases)
    for (const p of adapted.values()) {
      const l = p.layer.fields.bias;
      if (isLayer(l)) tables.set(`${ROOT}${p.module}.base_layer.bias`, table(p, l, 'bias'));
    }
  return { tables, modules, biases };
}
function table(p: Place, l: AnyLayer, part: string): Table {
  const w = ofKind(bare(l), 'weight')(); // of halves, the numbers and not the codes
  const halves = halvesAtHand(w);
  const own = halves === null ? tableOf(w) : { data: halves, shape: w.shape };
  if (own === null) throw new Error(`savePeft: ${p.path}.${part} is a recipe, or packed; await realize(unpacked(model), engine) first`);
  return p.turned && part === 'weight' ? turnedTable(own) : own;
}
/** What the library calls embeddings: where one of them is among the targets, tables of words that are adapted go along whole. */
const TABLES = ['embed_tokens', 'lm_head'];
function along(config: { readonly [key: string]: Json }, parts: readonly Part[]): ReadonlyMap<string, Table> {
  const { target_modules: named, trainable_token_indices: tokens = null, peft_type: type } = config;
  const tables = new Map<string, Table>();
  if (!Array.isArray(named) || !TABLES.some((n) => named.includes(n)) || tokens !== null || type === 'TRAINABLE_TOKENS') return tables;
  for (const { place } of parts.flatMap((p) => p.pieces)) {
    if (place === null || !(place.path === 'embed' || place.module === 'lm_head')) continue;
    const l = place.layer.fields.weight;
    if (isLayer(l)) tables.set(`${ROOT}${place.module}.base_layer.weight`, table(place, l, 'weight'));
  }
  return tables;
}
const trainedIn = (l: AnyLayer): boolean => [...tensors(bare(l))].some(({ tensor }) => paramOf(tensor)?.active === true);

/** A new configuration: every field that the library has, in its order. */
function fresh(
  parts: readonly Part[],
  names: Names,
  model: Model,
  base: BaseParts,
  folder: string,
  o: SaveOptions & { readonly task: Task },
): { readonly [key: string]: Json } {
  const { format } = parts[0]!;
  if (base.biases && !('bias' in format.fields))
    throw new Unsupported(`savePeft: biases are trainable beside ${format.method}, and ${format.peftType} has no field for them`);
  if (format.over !== undefined && (base.biases || base.modules.length > 0))
    throw new Unsupported(
      `savePeft: ${base.biases ? 'biases' : some(base.modules)} of the network are trained beside ${format.method}, and experts share one network that is not changed; freeze(model) before attaching`,
    );
  const own = Object.fromEntries(Object.entries(format.fields).map(([k, f]) => [k, f.otherwise]));
  const all = names.places.map((p) => p.module);
  const targeted = parts.filter((p) => p.format === format || p.format.targets === undefined);
  const modules = [...new Set(targeted.flatMap((p) => p.at.map((a) => a.module)))];
  const conv = format.on !== 'network' && names.places.some((p) => p.turned && modules.includes(p.module));
  const first = parts.find((p) => p.at.length > 0);
  let config: { readonly [key: string]: Json } = {
    task_type: o.task,
    peft_type: format.peftType,
    auto_mapping: null,
    base_model_name_or_path: o.baseModel ?? null,
    revision: null,
    inference_mode: true,
    modules_to_save: base.modules.length === 0 ? null : base.modules,
    ...own,
    ...(format.on === 'network' ? {} : { target_modules: namedShortly(modules, all) }),
    ...('fan_in_fan_out' in format.fields ? { fan_in_fan_out: conv } : {}),
    ...(base.biases ? { bias: `${format.peftType.toLowerCase()}_only` } : {}),
  };
  for (const part of parts.filter((p) => p.at.length > 0)) {
    const made = part.format.config(part.at, {
      modules: all,
      beside: part === first ? null : config,
      folder,
      size: (name) => sizeOf(model, name),
    });
    config = { ...config, ...(made as typeof config) };
  }
  for (const { format: f, at } of parts) {
    if (f.on === 'network') continue;
    const meant = new Set(targetsIn(f, config as unknown as Common, names, placesFor(f, names, model)).map((p) => p.module));
    const off = [...meant].filter((m) => !at.some((a) => a.module === m)).concat(at.map((a) => a.module).filter((m) => !meant.has(m)));
    if (off.length > 0)
      throw new Unsupported(
        `savePeft: ${f.method} is at ${some(at.map((a) => a.module))}, and a file of ${format.peftType} would have it at ${some([...meant])}; save what is at ${some(off)} apart`,
      );
    const other = f.alone && parts.find((p) => p.format !== f && p.at.some((a) => at.some((b) => b.module === a.module)));
    if (other)
      throw new Unsupported(
        `savePeft: ${other.format.method} and ${f.method} are both at ${at[0]!.module}, which Hugging Face PEFT refuses; merge one (merge(model))`,
      );
  }
  return config;
}
function taskOf(names: Names, model: Model): Task {
  const { fields } = bare(model);
  const head = names.byPath.get('head');
  if (head === undefined) return 'FEATURE_EXTRACTION';
  if ('pool' in fields) return 'SEQ_CLS';
  return head.module === 'lm_head' ? 'CAUSAL_LM' : 'TOKEN_CLS';
}

/** The configuration that was read, when it still says what is attached. */
function again(
  like: PeftFiles,
  parts: readonly Part[],
  formats: readonly AnyFormat[],
  names: Names,
  model: Model,
): { readonly [key: string]: Json } {
  const file = {
    file: join(like.folder, CONFIG_FILE),
    fields: like.config,
    written: like.written,
    peftType: String(like.config.peft_type),
  };
  const was = understood(file, formats);
  const differs = (what: string): never => {
    throw new Error(
      `savePeft: ${what}, so the files from ${like.folder} cannot be written again; leave out \`like\` to write a new configuration`,
    );
  };
  const known = partsOf(was.format, was.config);
  const other = parts.find((p) => p.at.length > 0 && !known.some((f) => f.method === p.format.method));
  if (other !== undefined) differs(`the model carries ${other.format.method} and the files hold ${was.format.method}`);
  for (const f of known) {
    const at = parts.filter((p) => p.format.method === f.method && p.format.on === f.on).flatMap((p) => p.at);
    const then = f.on === 'network' ? [] : targetsIn(f, was.config, names, placesFor(f, names, model));
    const of = f.options(was.config as never, then);
    for (const { module, place, options } of at)
      for (const [k, v] of Object.entries(of(place)))
        if (JSON.stringify(v) !== JSON.stringify(options[k]))
          differs(`${k} is ${JSON.stringify(options[k])} at ${module} and was ${JSON.stringify(v)}`);
    if (f.on === 'network') continue;
    const modules = [...new Set(at.map((a) => a.module))];
    const before = new Set(then.map((p) => p.module));
    const changed = [...modules.filter((m) => !before.has(m)), ...[...before].filter((m) => !modules.includes(m))];
    if (changed.length > 0) differs(`${some(changed)} ${changed.length === 1 ? 'is' : 'are'} adapted in one and not in the other`);
  }
  return { ...like.config, inference_mode: true };
}
function sameKeys(like: PeftFiles, now: ReadonlyMap<string, unknown>): void {
  const missing = [...like.dtypes.keys()].filter((k) => !now.has(k));
  const added = [...now.keys()].filter((k) => !like.dtypes.has(k));
  if (missing.length + added.length > 0)
    throw new Error(
      `savePeft: the files had ${some(missing)} that the model has not, and the model has ${some(added)} that they had not; leave out \`like\` to write new ones`,
    );
}
