// Reading an adapter of Hugging Face PEFT: its configuration says what to attach and where, its tensors become the values.
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Engine } from '../../core/engine.ts';
import { same, size } from '../../core/shape.ts';
import { type Data, leaf, type Param, paramOf, stateOf, type Tensor } from '../../core/tensor.ts';
import type { Model } from '../../nn/layer.ts';
import { layers, mapTensors } from '../../nn/tree.ts';
import type { Transform } from '../../peft/method.ts';
import { sitesOf as sitesIn } from '../../peft/site.ts';
import { exists, mustBeFile, openSafetensors, some, type TensorFile } from '../files.ts';
import { type Architecture, type Names, namesOf, type Place } from '../names.ts';
import {
  CONFIG_FILE,
  type Expert,
  identity,
  keyOf,
  type Options,
  ownOf,
  type PeftFiles,
  PICKLE_FILE,
  placesFor,
  shapes,
  shown,
  sitesOf,
  spotOf,
  WEIGHTS_FILE,
  where,
} from './adapter.ts';
import { ROUTER } from './arrow.ts';
import { replaceBase } from './base.ts';
import { type Common, type ConfigFile, check, parseConfig } from './config.ts';
import { expertFolders, madeOver, numbersOf, readExperts } from './experts.ts';
import { type AnyFormat, type Get, partsOf, type Spot, type Table, type Tables, Unsupported } from './format.ts';
import { PEFT_FORMATS } from './formats.ts';
import { PatternError } from './patterns.ts';
import { targets, targetsIn } from './targets.ts';
import { Tensors } from './tensors.ts';

export interface LoadOptions {
  /** What may be attached; every method that Hugging Face PEFT has too, unless a shorter list is given. */
  readonly formats?: readonly AnyFormat[];
  /** Whose names the modules have; read off the model when not given. */
  readonly architecture?: Architecture;
  /** Needed where a method reads weights that are packed or changed by another method. */
  readonly engine?: Engine;
  /** Folders of the experts of X-LoRA or Arrow by name ("0", "task_0"), where they are not in the adapter's own. */
  readonly adapters?: Readonly<Record<string, string>>;
  /** Gets each warning once; console.warn when not given. */
  readonly warn?: (message: string) => void;
}
export interface LoadedPeft {
  readonly model: Model;
  /** The first of what was attached: a file may hold a second one besides (LoRA on embeddings, tokens, Supra's LoRA). */
  readonly method: string;
  /** Paths where they were attached. */
  readonly sites: readonly string[];
  readonly warnings: readonly string[];
  /** Hand this to `savePeft` to write the same files again, byte for byte where nothing was trained. */
  readonly files: PeftFiles;
}

/** The configuration in a folder, or of Arrow's router in it; says what is there instead where it is missing. */
export async function readConfig(folder: string): Promise<ConfigFile> {
  const [plain, router] = [join(folder, CONFIG_FILE), join(folder, ROUTER, CONFIG_FILE)];
  const file = !(await exists(plain)) && (await exists(router)) ? router : plain;
  let text: string;
  await mustBeFile(file);
  try {
    text = await readFile(file, 'utf8');
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code !== 'ENOENT') throw e;
    throw new Error(`${file}: no such file; a folder of an adapter of Hugging Face PEFT holds ${CONFIG_FILE} and ${WEIGHTS_FILE}`);
  }
  return parseConfig(text, file);
}
/** The file of an adapter's tensors; where there is none, what is there instead and what to do. */
export async function weightsPath(folder: string): Promise<string> {
  const path = join(folder, WEIGHTS_FILE);
  if (await exists(path)) return path;
  if (await exists(join(folder, PICKLE_FILE)))
    throw new Error(
      `${join(folder, PICKLE_FILE)}: is a pickle, which can run any program when it is opened, so it is not read here. Convert it where you trust it: PeftModel.from_pretrained(base, folder).save_pretrained(folder) writes ${WEIGHTS_FILE}`,
    );
  throw new Error(`${path}: no such file; the folder has a configuration but no weights`);
}

/**
 * A frozen model with an adapter of Hugging Face PEFT attached: `adapter_config.json` and `adapter_model.safetensors` in `folder`. Halves are
 * widened to float32. What the file replaces in the network itself (modules_to_save, biases, embeddings) is replaced; the model given is not
 * changed. X-LoRA and Arrow are read with their experts, from folders beneath this one or those named in `adapters`. Warns about fields it does
 * not know. Throws when a field has a wrong type, when a variant is asked for that does not exist here, when nothing matches, and when tensors are
 * missing, left over or misshapen.
 */
export async function loadPeft(model: Model, folder: string, options: LoadOptions = {}): Promise<LoadedPeft> {
  const { formats = PEFT_FORMATS, architecture, engine, warn = (m) => console.warn(m) } = options;
  const file = await readConfig(folder);
  await using weights: TensorFile = await openSafetensors(await weightsPath(dirname(file.file)));
  const { format: alone, config, warnings } = understood(file, formats);
  const names = namesOf(model, architecture);
  const experts = await expertsFor(alone, config, model, folder, options, file, names);
  const format = alone.over === undefined ? alone : madeOver(alone.over, experts, file.file);
  const tensors = await Tensors.of(weights, names, format.leftovers);
  const base = replaceBase(model, names, config, tensors);
  const here = namesOf(base.model, names.architecture);
  const parts: AttachedAt[] = [];
  let now = base.model;
  for (const { format: part, at } of targetsOf(partsOf(format, config), config, names, base.model, file)) {
    const refused = part.refuses?.(shown(names), config as never) ?? null;
    if (refused !== null) throw new Error(`${file.file}: ${refused}`);
    parts.push(await attach(part, config, now, at, engine, file, tensors, here, numbersOf(experts)));
    now = parts.at(-1)!.model;
  }
  const values = new Map(parts.flatMap((part) => [...fill({ ...part, model: now }, here, tensors, file)]));
  tensors.finish();
  for (const w of warnings) warn(w);
  return {
    model: mapTensors(now, (t) => values.get(identity(t)) ?? t),
    method: parts[0]!.format.method,
    sites: parts.flatMap((part) => [...part.at.keys()]),
    warnings,
    files: {
      folder,
      useless: tensors.useless(),
      config: file.fields,
      written: file.written,
      dtypes: new Map([...weights.entries.values()].map((e) => [e.name, e.dtype])),
      ...(experts.length === 0 ? {} : { experts }),
    },
  };
}

/** The LoRAs that a method is over, read from their folders. */
async function expertsFor(
  format: AnyFormat,
  config: Common,
  model: Model,
  folder: string,
  { adapters, ...options }: LoadOptions,
  file: ConfigFile,
  names: Names,
): Promise<Expert[]> {
  const { over } = format;
  if (over === undefined) {
    if (file.file !== join(folder, CONFIG_FILE))
      throw new Error(`${file.file}: is in the place of Arrow's router, and has no arrow_config`);
    if (adapters !== undefined)
      throw new Error(`loadPeft: adapters are the experts of X-LoRA and Arrow, and ${file.file} is ${format.method}`);
    return [];
  }
  const refused = format.refuses?.(shown(names), config as never) ?? null;
  if (refused !== null) throw new Error(`${file.file}: ${refused}`);
  const formats = (options.formats ?? PEFT_FORMATS).filter((f) => f.over === undefined); // no mixtures of mixtures: a folder may lead to itself
  try {
    format.options(config as never, []);
    const placed = await expertFolders(over.named(config), folder, adapters ?? {}, file); // all are found before any is read
    return await readExperts(placed, over.advice, file, (one) => loadPeft(model, one, { ...options, formats }));
  } catch (e) {
    throw e instanceof Unsupported ? new Error(`${file.file}: ${e.message}`, { cause: e }) : e;
  }
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

/** The parts of a file that find a place, and their places. */
function targetsOf(parts: readonly AnyFormat[], c: Common, names: Names, model: Model, { file }: ConfigFile): readonly Targeted[] {
  const [format] = parts as readonly [AnyFormat];
  if (format.on === 'network') return [{ format, at: [] }];
  let found: readonly Targeted[];
  let elsewhere: readonly Place[] = [];
  const byTarget = parts.filter((f) => f.targets === undefined);
  try {
    found = parts.map((f) => ({ format: f, at: targetsIn(f, c, names, placesFor(f, names, model)) }));
    const taken = new Set(found.flatMap(({ at }) => at.map((p) => p.path)));
    if (byTarget.length > 0) elsewhere = targets(c, names, names.places).filter((p) => !taken.has(p.path));
  } catch (e) {
    throw e instanceof PatternError || e instanceof Unsupported ? new Error(`${file}: ${e.message}`, { cause: e }) : e;
  }
  if (elsewhere.length > 0)
    throw new Error(
      `${file}: target_modules also names ${some(elsewhere.map((p) => `${p.module} (a ${p.kind})`))}, but ${format.method} attaches to ${[...new Set(byTarget.map(where))].join(' and ')} here`,
    );
  if (found.every(({ at }) => at.length === 0))
    throw new Error(
      `${file}: target_modules ${JSON.stringify(c.target_modules ?? null)} matches nothing in this model (${names.architecture}); its modules are ${some(placesFor(format, names, model).map((p) => p.module))}`,
    );
  for (const { format: f, at } of found) {
    const cut = at.find((p) => p.rows !== null);
    if (cut !== undefined && f.byRows === undefined)
      throw new Error(
        `${file}: ${f.method} at ${cut.module} cannot be cut into the separate query, key and value layers of this model; build it with fusedQkv: true, as GPT-2 itself is`,
      );
    const other = f.alone && found.find((o) => o.format !== f && o.at.some((p) => at.some((q) => q.path === p.path)));
    if (other)
      throw new Error(`${file}: ${other.format.method} and ${f.method} are both at ${at[0]!.module}, which Hugging Face PEFT refuses`);
  }
  return found.filter(({ at }) => at.length > 0);
}
interface Targeted {
  readonly format: AnyFormat;
  readonly at: readonly Place[];
}

interface AttachedAt {
  readonly format: AnyFormat;
  readonly model: Model;
  /** Options and place by our path of the attachment. */
  readonly at: ReadonlyMap<string, { readonly options: Options; readonly place: Place | null }>;
  readonly applications: ReadonlySet<unknown>;
}

/** The method attached at the places, once for each set of options. */
async function attach(
  format: AnyFormat,
  c: Common,
  model: Model,
  found: readonly Place[],
  engine: Engine | undefined,
  { file, fields }: ConfigFile,
  tensors: Tensors,
  names: Names,
  elsewhere: number, // numbers of its experts
): Promise<AttachedAt> {
  const before = new Set([...layers(model)].map(({ layer }) => layer.attached?.application));
  const places = format.on === 'network' ? [null] : found;
  const at = new Map<string, { options: Options; place: Place | null }>();
  const groups = new Map<string, { options: Options; paths: Set<string> }>();
  try {
    const of = format.options(c as never, found);
    for (const place of places) {
      const options = of(place);
      const key = JSON.stringify(options);
      const group = groups.get(key) ?? { options, paths: new Set<string>() };
      groups.set(key, group);
      for (const path of place === null ? ['trunk'] : sitesOf(format, place)) {
        at.set(path, { options, place });
        group.paths.add(path);
      }
    }
  } catch (e) {
    throw new Error(`${file}: ${(e as Error).message}`, { cause: e });
  }
  const starts = (paths: ReadonlySet<string>): ReadonlyMap<string, unknown> => {
    const given = new Map<string, unknown>();
    if (format.start === undefined) return given;
    for (const path of paths) {
      const { options, place: first } = at.get(path)!;
      const { place, get } = seenAt(format, tensors, names, first);
      try {
        given.set(path, format.start(get, spotOf(model, { options, place, places: found, path, config: fields, had: get.has }, new Map())));
      } catch (e) {
        throw e instanceof Unsupported ? new Error(`${file}: ${e.message}`, { cause: e }) : e;
      }
    }
    return given;
  };
  let now = model;
  for (const { options, paths } of groups.values()) {
    const where = (path: string): boolean => paths.has(path);
    bounded(format.attach({ ...options, where }, new Map()), now, paths, tensors.numbers() + elsewhere, file);
    const transform = format.attach({ ...options, where }, starts(paths));
    now = (engine === undefined ? transform : await transform.prepare(now, { engine }))(now);
  }
  const all = [...layers(now)].map(({ layer }) => layer.attached?.application);
  return { format, model: now, at, applications: new Set(all.filter((a) => a !== undefined && !before.has(a))) };
}

/**
 * How many times the numbers of its file a method may hold: VB-LoRA's logits, of which a file may have the largest two alone, are the most. As many as
 * the adapted layers have is never too much: UniLoRA's indices follow from a seed.
 */
const MOST = 4096;
/** Refuses a configuration that would have a method draw far more numbers than the file has: a rank of a thousand million. */
function bounded({ parts }: Transform, model: Model, paths: ReadonlySet<string>, numbers: number, file: string): void {
  for (const { method, config } of parts) {
    const sites = sitesIn(model, method.at).filter((s) => paths.has(s.path));
    const { train, stored } = method.count(sites, config);
    const adapted = method.at === 'linear' || method.at === 'weight' ? sites.reduce((n, s) => n + size(s.shape), 0) : 0;
    if (!(Math.max(train, stored) <= Math.max(MOST * (numbers + 1), adapted)))
      throw new Error(
        `${file}: asks for ${Math.max(train, stored)} numbers, and the tensors beside it have ${numbers}: they do not belong together`,
      );
  }
}

/** What a format sees of the file at one place, whose layer is the network's as it is now. */
function seenAt(format: AnyFormat, file: Tensors, names: Names, place: Place | null): { readonly place: Place | null; readonly get: Get } {
  const now = place === null ? null : { ...place, layer: names.byPath.get(place.path)?.layer ?? place.layer };
  const read = (suffix: string): Table => {
    const key = keyOf(now, suffix);
    const table = file.get(key);
    return now?.rows != null && format.byRows?.includes(suffix) ? cut(table, now.rows, key) : table;
  };
  return { place: now, get: Object.assign(read, { has: (suffix: string) => file.has(keyOf(now, suffix)) }) };
}

/** Rows `from` to `to` of a table. */
const cut = ({ data, shape }: Table, { from, to, of }: NonNullable<Place['rows']>, key: string): Table => {
  if (shape[0] !== of) throw new Error(`${key} has ${shape[0]} rows, but the query, key and value layers together have ${of}`);
  const each = data.length / of;
  return { data: data.slice(from * each, to * each), shape: [to - from, ...shape.slice(1)] };
};

/** Values for every tensor that the method brought. */
function fill(
  attachedAt: AttachedAt,
  names: Names,
  file: Tensors,
  { file: configFile, fields: config }: ConfigFile,
): Map<Param | Tensor, Tensor> {
  const { format } = attachedAt;
  const values = new Map<Param | Tensor, Tensor>();
  const from = new Map<Param | Tensor, Table>();
  const wrong: string[] = [];
  const places = [...attachedAt.at.values()].flatMap((a) => a.place ?? []);
  for (const { path, layer } of layers(attachedAt.model)) {
    const { attached } = layer;
    const known = attachedAt.at.get(path);
    if (attached === null || known === undefined || !attachedAt.applications.has(attached.application)) continue;
    const { place, get } = seenAt(format, file, names, known.place);
    const own = ownOf(layer.fields[attached.field] ?? null);
    const spot = spotOf(
      attachedAt.model,
      { ...known, place, places, path, config, had: get.has },
      new Map([...own].map(([name, t]) => [name, t.shape])),
    );
    const tables = decoded(format, get, spot, configFile);
    for (const [name, t] of own) {
      if (format.unsaved?.some((u) => name === u || name.startsWith(`${u}.`))) continue;
      const table = tables[name];
      if (table === undefined) wrong.push(`${path}: the method has ${name}, which the file does not give`);
      else if (!same(t.shape, table.shape)) wrong.push(`${name} of ${place?.module ?? path} is ${shapes(table.shape, t.shape)}`);
      else {
        const before = from.get(identity(t));
        if (before !== undefined && before.data !== table.data && !before.data.every((v, k) => v === table.data[k]))
          throw new Error(
            `${file.file}: ${name} of ${place?.module ?? path} is shared with another layer here, and the file has two different ones`,
          );
        from.set(identity(t), table);
        if (before === undefined) values.set(identity(t), valued(t, table.data));
      }
    }
  }
  if (wrong.length > 0)
    throw new Error(
      `${file.file}: does not fit this model and ${configFile}:\n  ${wrong.slice(0, 12).join('\n  ')}\nIs it the adapter of another network?`,
    );
  return values;
}
function decoded(format: AnyFormat, get: Get, spot: Spot<Options>, file: string): Tables {
  try {
    return format.decode(get, spot);
  } catch (e) {
    throw e instanceof Unsupported ? new Error(`${file}: ${e.message}`, { cause: e }) : e;
  }
}
function valued(t: Tensor, data: Data): Tensor {
  const p = paramOf(t);
  return p === null ? leaf(data, t.shape) : stateOf({ ...p, value: data });
}
