// Reading an adapter of Hugging Face PEFT: its configuration says what to attach and where, its tensors become the values.
import { access, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Engine } from '../../core/engine.ts';
import { same } from '../../core/shape.ts';
import { type Data, leaf, type Param, paramOf, stateOf, type Tensor } from '../../core/tensor.ts';
import type { Model } from '../../nn/layer.ts';
import { layers, mapTensors } from '../../nn/tree.ts';
import { openSafetensors, some, type TensorFile } from '../files.ts';
import { type Architecture, type Names, namesOf, type Place } from '../names.ts';
import {
  CONFIG_FILE,
  identity,
  keyOf,
  ownOf,
  type PeftFiles,
  PICKLE_FILE,
  placesFor,
  shapes,
  siteOf,
  spotOf,
  WEIGHTS_FILE,
} from './adapter.ts';
import { isBefore, replaceBase } from './base.ts';
import { type Common, type ConfigFile, check, parseConfig } from './config.ts';
import type { AnyFormat, Get, Table } from './format.ts';
import { PEFT_FORMATS } from './formats.ts';
import { PatternError } from './patterns.ts';
import { targets } from './targets.ts';

export interface LoadOptions {
  /** What may be attached; every method that Hugging Face PEFT has too, unless a shorter list is given. */
  readonly formats?: readonly AnyFormat[];
  /** Whose names the modules have; read off the model when not given. */
  readonly architecture?: Architecture;
  /** Needed where a method reads weights that are packed or changed by another method. */
  readonly engine?: Engine;
  /** Gets each warning once; console.warn when not given. */
  readonly warn?: (message: string) => void;
}
export interface LoadedPeft {
  readonly model: Model;
  readonly method: string;
  /** Paths where it was attached. */
  readonly sites: readonly string[];
  readonly warnings: readonly string[];
  /** Hand this to `savePeft` to write the same files again, byte for byte where nothing was trained. */
  readonly files: PeftFiles;
}

/** The configuration in a folder; says what is there instead where it is missing. */
export async function readConfig(folder: string): Promise<ConfigFile> {
  const file = join(folder, CONFIG_FILE);
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code !== 'ENOENT') throw e;
    throw new Error(`${file}: no such file; a folder of an adapter of Hugging Face PEFT holds ${CONFIG_FILE} and ${WEIGHTS_FILE}`);
  }
  return parseConfig(text, file);
}
const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );
async function weightsIn(folder: string): Promise<TensorFile> {
  const path = join(folder, WEIGHTS_FILE);
  if (await exists(path)) return openSafetensors(path);
  if (await exists(join(folder, PICKLE_FILE)))
    throw new Error(
      `${join(folder, PICKLE_FILE)}: is a pickle, which can run any program when it is opened, so it is not read here. Convert it where you trust it: PeftModel.from_pretrained(base, folder).save_pretrained(folder) writes ${WEIGHTS_FILE}`,
    );
  throw new Error(`${path}: no such file; the folder has a configuration but no weights`);
}

/**
 * A frozen model with an adapter of Hugging Face PEFT attached: `adapter_config.json` and `adapter_model.safetensors` in `folder`. Halves are
 * widened to float32. What the file replaces in the network itself (modules_to_save, biases, embeddings) is replaced; the model given is not
 * changed. Warns about fields it does not know. Throws when a field has a wrong type, when a variant is asked for that does not exist here, when
 * nothing matches, and when tensors are missing, left over or misshapen.
 */
export async function loadPeft(model: Model, folder: string, options: LoadOptions = {}): Promise<LoadedPeft> {
  const { formats = PEFT_FORMATS, architecture, engine, warn = (m) => console.warn(m) } = options;
  const file = await readConfig(folder);
  await using weights = await weightsIn(folder);
  const { format, config, warnings } = understood(file, formats);
  const names = namesOf(model, architecture);
  const tensors = await Tensors.of(weights, names);
  const base = replaceBase(model, names, config, tensors);
  const at = format.on === 'network' ? [] : targetsOf(format, config, names, base.model, file);
  const attached = await attach(format, config, base.model, at, engine, file);
  const values = fill(format, attached, namesOf(base.model, names.architecture), tensors, file.file);
  tensors.finish();
  for (const w of warnings) warn(w);
  return {
    model: mapTensors(attached.model, (t) => values.get(identity(t)) ?? t),
    method: format.method,
    sites: [...attached.options.keys()],
    warnings,
    files: {
      folder,
      useless: tensors.useless(),
      config: file.fields,
      written: file.written,
      dtypes: new Map([...weights.entries.values()].map((e) => [e.name, e.dtype])),
    },
  };
}

/** The format that a configuration is of, and its fields. */
export function understood(file: ConfigFile, formats: readonly AnyFormat[]): { format: AnyFormat; config: Common; warnings: string[] } {
  const sameType = formats.filter((f) => f.peftType === file.peftType);
  if (sameType.length === 0)
    throw new Error(
      `${file.file}: peft_type is ${JSON.stringify(file.peftType.slice(0, 60))}; this library reads ${[...new Set(formats.map((f) => f.peftType))].join(', ')}`,
    );
  const shape = Object.fromEntries(Object.entries(sameType[0]!.fields).map(([k, f]) => [k, f.type]));
  const { value, warnings } = check(file, shape);
  const format = sameType.find((f) => f.is?.(value as never) ?? true);
  if (format === undefined) throw new Error(`${file.file}: this form of ${file.peftType} does not exist here`);
  return { format, config: value, warnings };
}

function targetsOf(format: AnyFormat, c: Common, names: Names, model: Model, { file }: ConfigFile): readonly Place[] {
  const places = placesFor(format, names, model);
  let found: readonly Place[];
  try {
    found = targets(c, names, places);
  } catch (e) {
    throw e instanceof PatternError ? new Error(`${file}: ${e.message}`, { cause: e }) : e;
  }
  const elsewhere = targets(c, names, names.places).filter((p) => !found.some((f) => f.path === p.path));
  if (elsewhere.length > 0 && format.on !== 'branch')
    throw new Error(
      `${file}: target_modules also names ${some(elsewhere.map((p) => `${p.module} (a ${p.kind})`))}, but ${format.method} attaches to ${format.on === 'norm' ? 'norms' : 'linear layers'} here`,
    );
  if (found.length === 0)
    throw new Error(
      `${file}: target_modules ${JSON.stringify(c.target_modules ?? null)} matches nothing in this model (${names.architecture}); its modules are ${some(places.map((p) => p.module))}`,
    );
  const cut = found.find((p) => p.rows !== null);
  if (cut !== undefined && format.byRows === undefined)
    throw new Error(
      `${file}: ${format.method} at ${cut.module} cannot be cut into the separate query, key and value layers of this model; build it with fusedQkv: true, as GPT-2 itself is`,
    );
  return found;
}

export interface AttachedAt {
  readonly model: Model;
  /** Options by our path of the attachment. */
  readonly options: ReadonlyMap<string, Readonly<Record<string, unknown>>>;
  readonly places: ReadonlyMap<string, Place>;
  readonly applications: ReadonlySet<unknown>;
}

/** The method attached at the places, once for each set of options. */
async function attach(
  format: AnyFormat,
  c: Common,
  model: Model,
  at: readonly Place[],
  engine: Engine | undefined,
  { file }: ConfigFile,
): Promise<AttachedAt> {
  const before = new Set([...layers(model)].map(({ layer }) => layer.attached?.application));
  const of = (() => {
    try {
      return format.options(c as never, [...new Set(at.map((p) => p.module))]);
    } catch (e) {
      throw new Error(`${file}: ${(e as Error).message}`, { cause: e });
    }
  })();
  const options = new Map<string, Readonly<Record<string, unknown>>>(
    format.on === 'network' ? [['', of('')]] : at.map((p) => [siteOf(format, p), of(p.module)]),
  );
  const groups = new Map<string, [string, Readonly<Record<string, unknown>>][]>();
  for (const one of options) groups.set(JSON.stringify(one[1]), [...(groups.get(JSON.stringify(one[1])) ?? []), one]);
  let now = model;
  for (const group of groups.values()) {
    const paths = new Set(group.map(([path]) => path));
    const where = (path: string): boolean => paths.has(path) || (format.on === 'network' && path === 'trunk');
    const transform = format.attach({ ...group[0]![1], where });
    now = (engine === undefined ? transform : await transform.prepare(now, { engine }))(now);
  }
  const applications = new Set(
    [...layers(now)].map(({ layer }) => layer.attached?.application).filter((a) => a !== undefined && !before.has(a)),
  );
  return { model: now, options, places: new Map(at.map((p) => [siteOf(format, p), p])), applications };
}

/** The file's tensors, each to be asked for; what nobody asks for is an error in the end. */
export class Tensors {
  readonly file: string;
  private readonly tables: ReadonlyMap<string, Table>;
  private readonly asked = new Set<string>();
  private constructor(file: string, tables: ReadonlyMap<string, Table>) {
    this.file = file;
    this.tables = tables;
  }
  /** All of them, read now: adapters are small. Keys without the usual prefix, as other writers have them, get it. */
  static async of(file: TensorFile, names: Names): Promise<Tensors> {
    const modules = names.places.map((p) => p.module);
    const tables = new Map<string, Table>();
    for (const e of file.entries.values()) {
      const bare = modules.some((m) => e.name.startsWith(`${m}.`));
      tables.set(bare ? `base_model.model.${e.name}` : e.name, { data: await file.read(e.name), shape: e.shape });
    }
    return new Tensors(file.path, tables);
  }
  has(key: string): boolean {
    return this.tables.has(key);
  }
  get(key: string): Table {
    const t = this.tables.get(key);
    if (t === undefined) throw new Error(`${this.file}: has no tensor ${key}; it has ${some([...this.tables.keys()])}`);
    this.asked.add(key);
    return t;
  }
  /** Tensors that nothing is made of. */
  useless(): ReadonlyMap<string, Table> {
    return new Map([...this.tables].filter(([k]) => isBefore(k)));
  }
  finish(): void {
    const left = [...this.tables.keys()].filter((k) => !this.asked.has(k) && !isBefore(k));
    if (left.length > 0)
      throw new Error(
        `${this.file}: has ${some(left)}, which the configuration gives no place for. Is it the adapter of another network, or of one with another head?`,
      );
  }
}

/** Rows `from` to `to` of a table. */
const cut = ({ data, shape }: Table, { from, to, of }: NonNullable<Place['rows']>, key: string): Table => {
  if (shape[0] !== of) throw new Error(`${key} has ${shape[0]} rows, but the query, key and value layers together have ${of}`);
  const each = data.length / of;
  return { data: data.slice(from * each, to * each), shape: [to - from, ...shape.slice(1)] };
};

/** Values for every tensor that the method brought. */
function fill(format: AnyFormat, at: AttachedAt, names: Names, file: Tensors, configFile: string): Map<Param | Tensor, Tensor> {
  const values = new Map<Param | Tensor, Tensor>();
  const wrong: string[] = [];
  for (const { path, layer } of layers(at.model)) {
    const { attached } = layer;
    if (attached === null || !at.applications.has(attached.application)) continue;
    const old = at.places.get(path) ?? null;
    const place = old === null ? null : { ...old, layer: names.byPath.get(old.path)?.layer ?? old.layer };
    const get: Get = (suffix) => {
      const key = keyOf(place, suffix);
      const table = file.get(key);
      return place?.rows != null && format.byRows?.includes(suffix) ? cut(table, place.rows, key) : table;
    };
    const tables = format.decode(get, spotOf(at.model, place, at.options.get(path) ?? at.options.get('')!));
    for (const [name, t] of ownOf(layer.fields[attached.field] ?? null)) {
      if (format.unsaved?.some((u) => name === u || name.startsWith(`${u}.`))) continue;
      const table = tables[name];
      if (table === undefined) wrong.push(`${path}: the method has ${name}, which the file does not give`);
      else if (!same(t.shape, table.shape)) wrong.push(`${name} of ${place?.module ?? path} is ${shapes(table.shape, t.shape)}`);
      else values.set(identity(t), valued(t, table.data));
    }
  }
  if (wrong.length > 0)
    throw new Error(
      `${file.file}: does not fit this model and ${configFile}:\n  ${wrong.slice(0, 12).join('\n  ')}\nIs it the adapter of another network?`,
    );
  return values;
}
function valued(t: Tensor, data: Data): Tensor {
  const p = paramOf(t);
  return p === null ? leaf(data, t.shape) : stateOf({ ...p, value: data });
}
