// What reading and writing share: folders, sites of a format in a model, and the tensors that a method keeps at one place.
import { show } from '../../core/shape.ts';
import { type Param, paramOf, type Tensor } from '../../core/tensor.ts';
import { numberOf } from '../../nn/backbone.ts';
import { type AnyLayer, type Field, isLayer, type Model, ofKind } from '../../nn/layer.ts';
import { layers, tensors } from '../../nn/tree.ts';
import { bare } from '../../peft/site.ts';
import type { Json } from '../adapterJson.ts';
import type { Names, Place } from '../names.ts';
import type { Dtype } from '../numbers.ts';
import type { AnyFormat, Shown, Spot, Table } from './format.ts';

export const CONFIG_FILE = 'adapter_config.json';
export const WEIGHTS_FILE = 'adapter_model.safetensors';
export const PICKLE_FILE = 'adapter_model.bin';
/** What precedes every key that belongs to a module. */
export const ROOT = 'base_model.model.';

/** What a folder held, kept so that the same can be written again. */
export interface PeftFiles {
  readonly folder: string;
  readonly config: { readonly [key: string]: Json };
  /** Numbers of the configuration as they were written, by path. */
  readonly written: ReadonlyMap<string, string>;
  /** Tensors by key, in the order of the file. */
  readonly dtypes: ReadonlyMap<string, Dtype>;
  /** Tensors that nothing is made of, to be written again. */
  readonly useless: ReadonlyMap<string, Table>;
  /** What a mixture was made of, from folders of their own. */
  readonly experts?: readonly Expert[];
}
/** One LoRA of a mixture, as it was read. */
export interface Expert {
  readonly name: string;
  readonly model: Model;
  readonly files: PeftFiles;
  /** General knowledge, subtracted from the others. */
  readonly general: boolean;
}

/** Key of a tensor: at a module, of the whole network, or as it stands. */
export const keyOf = (place: Place | null, suffix: string): string =>
  place === null || suffix.startsWith('base_model.') ? suffix : `${ROOT}${place.module}.${suffix}`;

/** Our paths of what a format attaches to at a place: for norms gain and shift. */
export function sitesOf({ on }: AnyFormat, { path, layer }: Place): readonly string[] {
  if (on === 'norm') return PARTS.filter((part) => isLayer(layer.fields[part])).map((part) => `${path}.${part}`);
  if (on === 'table') return [`${path}.weight`];
  return [on === 'weight' || on === 'bias' ? `${path}.${on}` : path];
}
export const PARTS = ['weight', 'bias'] as const;

/** Places of the model where a format can attach. Branches (whole attentions) are places of their own. */
export function placesFor(format: AnyFormat, names: Names, model: Model): readonly Place[] {
  if (format.on === 'branch') {
    const found = new Map<string, Place>();
    for (const { path, layer } of layers(model))
      if (layer.kind === 'branch' && /\.attn$/.test(path) && !found.has(path))
        found.set(path, { path, module: names.moduleOf(path), kind: 'branch', layer, rows: null, turned: false });
    return [...found.values()];
  }
  if (format.on === 'embedding') return names.places.filter((p) => p.kind === 'embedding');
  if (format.on === 'table')
    return names.places.filter((p) => p.kind === 'embedding' || (p.path === 'head' && !isLayer(p.layer.fields.bias)));
  if (format.on === 'norm') return names.places.filter((p) => p.kind === 'norm');
  return names.places.filter((p) => p.kind === 'linear');
}

/** Whether the head's weight, of these places, is the embedding's own table. */
export function headShares(places: readonly Place[]): boolean {
  const [table, head] = ['embed', 'head'].map((path) => places.find((p) => p.path === path)?.layer.fields.weight);
  return isLayer(table) && sameTable(head, table);
}
const sameTable = (a: Field | undefined, b: AnyLayer): boolean =>
  isLayer(a) && [...tensors(bare(a))][0]?.tensor === [...tensors(bare(b))][0]?.tensor;

/** Numbers of a tensor that is a leaf or a parameter; null for a recipe. */
export function tableOf(t: Tensor): Table | null {
  const s = t.source;
  if (s.kind === 'leaf') return { data: s.data, shape: t.shape };
  return s.kind === 'state' ? { data: s.param.value, shape: t.shape } : null;
}
export const identity = (t: Tensor): Param | Tensor => paramOf(t) ?? t;

/** Tensors that an attached method holds, by name: A, B, table.0. */
export const ownOf = (own: Field): ReadonlyMap<string, Tensor> => new Map([...tensors(own)].map(({ path, tensor }) => [path, tensor]));

/** What a format may ask about an attachment. */
export function spotOf<C>(
  model: Model,
  { place, places, path, options, config, had }: Pick<Spot<C>, 'place' | 'places' | 'path' | 'options' | 'config' | 'had'>,
  own: ReadonlyMap<string, readonly number[]>,
): Spot<C> {
  return {
    options,
    place,
    places,
    path,
    config,
    had,
    own,
    base: (name) => {
      const l = place?.layer.fields[name];
      const first = l === undefined || l === null ? null : [...tensors(isLayer(l) ? bare(l) : l)][0];
      const table = first == null ? null : tableOf(first.tensor);
      if (table === null)
        throw new Error(`${place?.module ?? 'the model'}: its ${name} is not numbers at hand; await realize(model, engine) first`);
      return table;
    },
    size: (name) => sizeOf(model, name),
  };
}
export function sizeOf(model: Model, name: string): number {
  if (name === 'layers') return new Set([...layers(model)].filter(({ layer }) => layer.kind === 'block').map(({ path }) => path)).size;
  const kinds: Readonly<Record<string, AnyLayer['kind']>> = { width: 'trunk', longest: 'trunk' };
  for (const { layer } of layers(model))
    if (layer.kind === (kinds[name] ?? 'attend')) {
      const n = numberOf(layer, name);
      if (n !== null) return n;
    }
  throw new Error(`this model shows no ${name}`);
}

export const shapes = (a: readonly number[], b: readonly number[]): string => `${show(a)}, expected ${show(b)}`;

export type Options = Readonly<Record<string, unknown>>;
export const shown = ({ architecture, places, prefix }: Names): Shown => ({
  encoder: architecture === 'bert' || architecture === 'roberta',
  tied: headShares(places),
  prefix,
});
/** What a format attaches to, in words. */
export const where = ({ on }: AnyFormat): string =>
  ({
    linear: 'linear layers',
    weight: 'weights of linear layers',
    bias: 'biases of linear layers',
    norm: 'norms',
    embedding: 'embeddings',
    table: 'embeddings',
    branch: 'attentions',
    network: 'the network',
  })[on];

/** [out, in] of a linear layer's weight. */
export function weightShape({ layer }: Pick<Place, 'layer'>): readonly [number, number] {
  const w = bare(layer).fields.weight;
  if (!isLayer(w)) throw new Error('a linear layer without a weight');
  return ofKind(bare(w), 'weight')().shape as readonly [number, number]; // of what it unpacks to, where it is packed
}
