// Adapters on disk: what methods brought to a model, in one safetensors file whose metadata says how to attach it again.
import { mkdir } from 'node:fs/promises';
import { join as joinPath } from 'node:path';
import type { Engine } from '../core/engine.ts';
import { same, show, size } from '../core/shape.ts';
import { leaf, type Param, paramOf, stateOf, type Tensor, param as trainableLeaf } from '../core/tensor.ts';
import type { Model } from '../nn/layer.ts';
import { mapTensors, tensors } from '../nn/tree.ts';
import type { Configurable } from '../peft/attach.ts';
import type { AnyMade } from '../peft/listed.ts';
import { finish } from '../peft/merge.ts';
import { sitesOf } from '../peft/site.ts';
import { type AppliedMethod, applied, asJson, type Description, describe, parseDescription, type Role } from './adapterJson.ts';
import { openSafetensors, some, type TensorFile, writeAtomic, writeSafetensors } from './files.ts';
import { dtypeOf } from './numbers.ts';
import type { Writable } from './safetensors.ts';

/** The file that is loaded, and a copy of its description for eyes. */
export const ADAPTER_FILE = 'adapter.safetensors';
export const ADAPTER_TEXT = 'adapter.json';

export interface SavedAdapter {
  readonly file: string;
  readonly bytes: number; // of tensors, without the header
  readonly numbers: number;
}

const identity = (t: Tensor): Param | Tensor => paramOf(t) ?? t;

/** What an adapter consists of, by path; a tensor used at several places stands under the first. */
interface Contents {
  readonly stored: ReadonlyMap<string, Tensor>; // belongs in the file
  readonly base: ReadonlyMap<string, Tensor>; // frozen numbers of the network itself
}
function contents(model: Model): Contents {
  const { own, replaced } = applied(model);
  const stored = new Map<string, Tensor>();
  const base = new Map<string, Tensor>();
  const seen = new Set<unknown>();
  const put = (into: Map<string, Tensor>, path: string, t: Tensor): void => {
    if (!seen.has(identity(t))) into.set(path, t);
    seen.add(identity(t));
  };
  for (const { path, tensor } of own) put(stored, path, tensor);
  const mine = new Set(own.map((o) => o.path));
  const ofReplaced = (path: string): boolean => [...replaced].some((p) => path === p || path.startsWith(`${p}.`)); // packed ones have parts
  for (const { path, tensor } of tensors(model))
    if (!mine.has(path)) put(paramOf(tensor) !== null || ofReplaced(path) ? stored : base, path, tensor);
  return { stored, base };
}

const roleOf = (t: Tensor): Role => {
  const p = paramOf(t);
  return p === null ? { role: 'fixed' } : p.active ? { role: 'train', lr: p.lr, decay: p.decay } : { role: 'buffer' };
};

/**
 * Writes what the model's methods brought (trained, fixed and buffer tensors), parameters of the network itself that are not
 * frozen, and weights that a method replaced, into `folder/adapter.safetensors`, wholly or not at all. The folder is made when
 * missing. Throws when a tensor is a recipe (`await realize(model, engine)` first) or when there is nothing to save.
 */
export async function saveAdapter(model: Model, folder: string): Promise<SavedAdapter> {
  const { stored } = contents(model);
  if (stored.size === 0)
    throw new Error('saveAdapter: nothing is attached to this model and nothing in it is trainable, so there is no adapter to save');
  const writable = new Map<string, Writable>();
  for (const [path, t] of stored) {
    const s = t.source;
    if (s.kind !== 'leaf' && s.kind !== 'state')
      throw new Error(`saveAdapter: ${path} is a recipe, not numbers yet; save \`await realize(model, engine)\` instead`);
    writable.set(path, { data: s.kind === 'leaf' ? s.data : s.param.value, shape: t.shape });
  }
  const description = describe(model, new Map([...stored].map(([path, t]) => [path, roleOf(t)])));
  await mkdir(folder, { recursive: true });
  const file = joinPath(folder, ADAPTER_FILE);
  await writeSafetensors(file, writable, new Map([['tinypeft', JSON.stringify(description)]]));
  const text = { about: `A copy for reading. What is loaded is ${ADAPTER_FILE}, which holds the same in its metadata.`, ...description };
  await writeAtomic(joinPath(folder, ADAPTER_TEXT), [new TextEncoder().encode(`${JSON.stringify(text, null, 2)}\n`)]);
  const all = [...writable.values()];
  return { file, bytes: all.reduce((n, w) => n + w.data.byteLength, 0), numbers: all.reduce((n, w) => n + w.data.length, 0) };
}

/** What a saved adapter says about itself; reads no tensors. */
export async function readDescription(folder: string): Promise<Description> {
  await using file = await openSafetensors(joinPath(folder, ADAPTER_FILE));
  return parseDescription(file.metadata.get('tinypeft'), file.path);
}

/**
 * A model with a saved adapter's values. With `methods`, `model` is the bare frozen network and the file's methods are attached
 * again, each of which must be in the list (nothing else runs). Without, `model` must already carry the same attachments; this
 * is the way for methods that need `prepare`. Names, shapes and types are all checked first: the error says what differs.
 * With an `engine` they are prepared first: methods that read weights can so be attached to packed ones too.
 * A finished adapter (a flattened prefix) loads onto its unfinished attachment. The model given is not changed.
 */
export async function loadAdapter(
  model: Model,
  folder: string,
  methods?: readonly AnyMade[],
  { engine }: { readonly engine?: Engine } = {},
): Promise<Model> {
  await using file = await openSafetensors(joinPath(folder, ADAPTER_FILE));
  const description = parseDescription(file.metadata.get('tinypeft'), file.path);
  const attached = methods === undefined ? model : await reattached(model, description, methods, file, engine);
  const names = [...file.entries.keys()];
  const finished = finish(attached);
  const target = [attached, finished].find((m) => sameNames(contents(m), names)) ?? attached;
  const { stored, base } = contents(target);

  const wrong: string[] = [];
  const missing = [...stored.keys()].filter((n) => !file.entries.has(n));
  const places = new Map([...base, ...stored]);
  const unknown = names.filter((n) => !places.has(n));
  if (missing.length > 0)
    wrong.push(`the model expects ${some(missing)}, which the file does not have (freeze(model) first, if these should not be trained)`);
  if (unknown.length > 0) wrong.push(`the file has ${some(unknown)}, which the model has no place for`);
  const values = new Map<Param | Tensor, Tensor>();
  for (const e of file.entries.values()) {
    const t = places.get(e.name);
    if (t === undefined) continue;
    if (!same(t.shape, e.shape)) wrong.push(`${e.name} is ${show(e.shape)} in the file and ${show(t.shape)} in the model`);
    const s = t.source;
    const held = s.kind === 'leaf' ? dtypeOf(s.data) : s.kind === 'state' ? dtypeOf(s.param.value) : 'F32';
    // What engines hand back is float, so a parameter that started from whole numbers may be stored as float.
    const fits = e.dtype === held || (isFloat(e.dtype) && (isFloat(held) || s.kind === 'state'));
    if (!fits) wrong.push(`${e.name} holds ${e.dtype} in the file and ${held} in the model`);
  }
  if (wrong.length > 0) throw new Error(`loadAdapter: ${file.path} does not fit this model:\n  ${wrong.slice(0, 12).join('\n  ')}`);

  for (const e of file.entries.values()) {
    const t = places.get(e.name)!;
    const data = await file.read(e.name);
    const p = paramOf(t);
    const role = description.tensors.get(e.name) ?? { role: 'fixed' };
    if (p !== null) values.set(p, stateOf({ ...p, value: data }));
    else if (role.role === 'train' && base.has(e.name)) values.set(t, trainableLeaf(data, t.shape, { lr: role.lr, decay: role.decay }));
    else values.set(t, leaf(data, t.shape));
  }
  return mapTensors(target, (t) => values.get(identity(t)) ?? t);
}
const isFloat = (dtype: string): boolean => dtype.includes('F');
const sameNames = ({ stored, base }: Contents, names: readonly string[]): boolean =>
  names.every((n) => stored.has(n) || base.has(n)) && [...stored.keys()].every((n) => names.includes(n));

/** How many times the numbers of its file a method may bring: a prefix is saved without the network that made it, which is the most. */
const MOST = 4096;

async function reattached(
  model: Model,
  { applications }: Description,
  methods: readonly AnyMade[],
  file: TensorFile,
  engine: Engine | undefined,
): Promise<Model> {
  const numbers = [...file.entries.values()].reduce((n, e) => n + size(e.shape), 0);
  let now = model;
  for (const a of applications) now = await reattach(now, a, methods, numbers, file.path, engine);
  return now;
}

/** One application of the file attached again, at exactly the sites it had. */
async function reattach(
  model: Model,
  a: AppliedMethod,
  methods: readonly AnyMade[],
  numbers: number,
  file: string,
  engine: Engine | undefined,
): Promise<Model> {
  const made = methods.find((m) => m.method.name === a.method);
  if (made === undefined)
    throw new Error(
      `loadAdapter: the file was made with ${a.method}; pass it in the list of methods (given: ${some(methods.map((m) => m.method.name))})`,
    );
  const here = new Set(sitesOf(model, made.method.at).map((s) => s.path));
  const absent = a.sites.filter((s) => !here.has(s));
  if (absent.length > 0)
    throw new Error(
      `loadAdapter: ${a.method} was attached at ${some(absent)}, but this model has no such ${made.method.at}; it has ${some([...here])}`,
    );
  if (a.omitted.length > 0)
    throw new Error(
      `loadAdapter: the options ${a.omitted.join(', ')} of ${a.method} could not be written as JSON, so they are not in the file; attach ${a.method} yourself and call loadAdapter(attached, folder)`,
    );
  const defaults: Readonly<Record<string, unknown>> = { ...made.method.defaults };
  for (const [k, v] of Object.entries(a.config)) {
    const d = defaults[k];
    if (d !== undefined && d !== null && v !== null && typeof d !== typeof v)
      throw new Error(`loadAdapter: ${a.method} has ${k} = ${JSON.stringify(asJson(v))} in the file, which should be a ${typeof d}`);
  }
  const sites = new Set(a.sites);
  const configurable = made as unknown as Configurable<Readonly<Record<string, unknown>>>; // the seam: the file says which options, the check above of which type
  try {
    const transform = configurable({ ...a.config, where: (path: string) => sites.has(path) });
    for (const { method, config } of transform.parts) {
      const { train, stored } = method.count(
        sitesOf(model, method.at).filter((s) => sites.has(s.path)),
        config,
      );
      if (!(Math.min(train, stored) >= 0 && Math.max(train, stored) <= MOST * (numbers + 1)))
        throw new RangeError(`they ask for ${Math.max(train, stored)} numbers, and the file has ${numbers}`);
    }
    return (engine === undefined ? transform : await transform.prepare(model, { engine }))(model);
  } catch (e) {
    throw new Error(`loadAdapter: ${file}: ${a.method} cannot be attached with the options in the file: ${(e as Error).message}`, {
      cause: e,
    });
  }
}
