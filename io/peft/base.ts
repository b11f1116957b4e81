// What an adapter file replaces in the network itself: heads and other modules saved whole, trained biases, embeddings.
import { same } from '../../core/shape.ts';
import { leaf, param, paramOf, type Tensor } from '../../core/tensor.ts';
import { type AnyLayer, isLayer, type Model, ofKind } from '../../nn/layer.ts';
import { weight } from '../../nn/linear.ts';
import { rewrite } from '../../nn/tree.ts';
import { bare } from '../../peft/site.ts';
import type { Names, Place } from '../names.ts';
import { headShares, PARTS, ROOT, shapes } from './adapter.ts';
import type { Common } from './config.ts';
import type { Table } from './format.ts';
import { savedWhole } from './targets.ts';
import type { Tensors } from './tensors.ts';

/**
 * The keys that a part of the network itself may have. The third is written beside the first where bias is "all" and the module is saved whole; the
 * second and the last are beneath an adapter.
 */
export const baseKeys = (p: Place, part: (typeof PARTS)[number]): readonly string[] =>
  ['', 'base_layer.', 'modules_to_save.', 'token_adapter.base_layer.'].map((between) => `${ROOT}${p.module}.${between}${part}`);
/** What a module saved whole was before: of no use to whoever loads the file. */
export const isBefore = (key: string): boolean => /\.original_module\.(weight|bias)$/.test(key);

/** [in, out] ↔ [out, in] */
export function turnedTable({ data, shape: [n, m] }: Table): Table {
  return { data: data.map((_, i) => data[(i % n!) * m! + Math.floor(i / n!)]!), shape: [m!, n!] };
}

/** The network with what the file has of it. Trained are modules saved whole and biases; embeddings saved along are frozen. */
export function replaceBase(model: Model, names: Names, c: Common, file: Tensors): { readonly model: Model } {
  const whole = savedWhole(
    c,
    names.places.map((p) => p.module),
  );
  const found = new Map<string, Partial<Record<(typeof PARTS)[number], Table>>>();
  for (const p of names.places) {
    const parts: Partial<Record<(typeof PARTS)[number], Table>> = {};
    for (const part of PARTS) {
      const [key, ...also] = baseKeys(p, part).filter((k) => file.has(k));
      if (key === undefined) continue;
      for (const k of also)
        if (!file.get(k).data.every((v, n) => v === file.get(key).data[n]))
          throw new Error(`${file.file}: ${key} and ${k} differ, and this model has one`);
      if (p.rows !== null)
        throw new Error(`${file.file}: ${key} is a part of the network that this model has in three layers; build it with fusedQkv: true`);
      parts[part] = fitted(p, part, file.get(key), key, file.file);
    }
    if (Object.keys(parts).length > 0) found.set(p.path, parts);
    else if (whole.has(p.module)) {
      // a module saved whole whose numbers the file lacks would silently stay as it is
      throw new Error(`${file.file}: modules_to_save names ${p.module}, but the file has no ${baseKeys(p, 'weight')[0]}`);
    }
  }
  if (found.size === 0) return { model };
  // Beneath an adapter the table is still the head's where they share one; saved whole, it is a module of its own.
  const [words, head] = [found.get('embed'), names.byPath.get('head')];
  const beneath = names.byPath.has('embed') && file.has(`${ROOT}${names.byPath.get('embed')!.module}.base_layer.weight`);
  if (words?.weight !== undefined && head !== undefined && !found.has('head') && beneath && headShares(names.places))
    found.set('head', { weight: words.weight });
  const trained = (path: string): boolean => whole.has(names.byPath.get(path)!.module);
  const made = new Map<string, AnyLayer>(); // equal tables of a tied pair stay one
  const layerOf = (l: AnyLayer, table: Table, train: boolean): AnyLayer => {
    const old = oldTensor(l);
    const p = old === null ? null : paramOf(old);
    const decay = table.shape.length > 1;
    return weight(train ? param(table.data, table.shape, { lr: p?.lr ?? 1, decay: p?.decay ?? decay }) : leaf(table.data, table.shape));
  };
  return {
    model: rewrite(model, function change(l, path) {
      const parts = found.get(path);
      if (parts === undefined || l.attached !== null) return null;
      const fields = { ...l.fields };
      for (const part of PARTS) {
        const [table, old] = [parts[part], l.fields[part]];
        if (table === undefined || !isLayer(old)) continue;
        const twin = tiedTo(names, path, part, found);
        const key = twin ?? `${path}.${part}`;
        const now = made.get(key) ?? layerOf(old, table, trained(path) || (part === 'bias' && (c.bias ?? 'none') !== 'none'));
        made.set(key, now);
        fields[part] = now;
      }
      return l.with(fields);
    }),
  };
}
/** The tensor that a weight layer answers: its numbers, or a recipe where it is packed. */
const oldTensor = (l: AnyLayer): Tensor | null => (l.kind === 'weight' ? ofKind(bare(l), 'weight')() : null);

/** One key for both sides of a tied pair whose numbers in the file are equal. */
function tiedTo(names: Names, path: string, part: string, found: ReadonlyMap<string, Partial<Record<string, Table>>>): string | null {
  if (part !== 'weight' || (path !== 'embed' && path !== 'head')) return null;
  const [embed, head] = [names.byPath.get('embed'), names.byPath.get('head')];
  const [a, b] = [found.get('embed')?.weight, found.get('head')?.weight];
  if (
    embed?.layer.fields.weight === undefined ||
    embed.layer.fields.weight !== head?.layer.fields.weight ||
    a === undefined ||
    b === undefined
  )
    return null;
  return same(a.shape, b.shape) && a.data.every((v, k) => v === b.data[k]) ? 'embed and head' : null;
}

/** The table as ours, its shape checked. Tables of words may have other numbers of rows: a vocabulary that was resized. */
function fitted(p: Place, part: string, table: Table, key: string, file: string): Table {
  const l = p.layer.fields[part];
  const t = isLayer(l) ? oldTensor(l) : null;
  if (t === null) throw new Error(`${file}: has ${key}, but ${p.path} of this model has no ${part}`);
  const ours = p.turned && part === 'weight' ? turnedTable(table) : table;
  const resized = (p.path === 'embed' || p.path === 'head') && ours.shape.length === t.shape.length && ours.shape[1] === t.shape[1];
  if (!same(ours.shape, t.shape) && !resized) throw new Error(`${file}: ${key} is ${shapes(ours.shape, t.shape)}`);
  return ours;
}
