// What is attached to a model, as one file of Hugging Face PEFT needs it: place by place, parts of one matrix of theirs together.
import type { Engine } from '../../core/engine.ts';
import type { Data } from '../../core/tensor.ts';
import { realize } from '../../nn/freeze.ts';
import type { Field, Model } from '../../nn/layer.ts';
import { layers } from '../../nn/tree.ts';
import type { Names, Place } from '../names.ts';
import { keyOf, type Options, ownOf, type PeftFiles, placesFor, sitesOf, spotOf, tableOf, where } from './adapter.ts';
import type { AnyFormat, Piece, Spot, Table, Tables } from './format.ts';

/** The formats of what a model carries, all in one file: first the file's own, which may itself have no place (LoRA on embeddings alone). */
export function formatsOn(model: Model, formats: readonly AnyFormat[], peftType?: unknown): readonly AnyFormat[] {
  const found = new Set<string>();
  const places = new Map<string, string[]>();
  for (const { path, layer } of layers(model))
    if (layer.attached !== null) {
      found.add(layer.attached.method);
      places.set(path, [...(places.get(path) ?? []), layer.attached.method]);
    }
  if (found.size === 0) throw new Error('savePeft: nothing is attached to this model, so there is no adapter to save');
  const holding = formats.filter((f) => [...found].every((name) => f.method === name || f.beside?.some((b) => b.method === name)));
  const its = (f: AnyFormat): boolean => found.has(f.method);
  const typed = holding.filter((f) => f.peftType === peftType);
  const main = typed.find(its) ?? holding.find(its) ?? typed[0] ?? holding[0];
  if (main === undefined && found.size > 1)
    throw new Error(
      `savePeft: ${[...found].join(' and ')} are attached, and a file of Hugging Face PEFT holds one method; save each on a model of its own, or merge one (merge(model))`,
    );
  const twice = [...places].find(([, methods]) => methods.length > 1);
  if (twice !== undefined)
    throw new Error(
      `savePeft: ${twice[1][0]} is attached twice at ${twice[0]}; save each on a model of its own, or combine them into one first`,
    );
  if (main === undefined)
    throw new Error(
      `savePeft: Hugging Face PEFT has no file for ${[...found].join()}; it has ${[...new Set(formats.flatMap((f) => [f, ...(f.beside ?? [])]).map((f) => f.method))].join(', ')}. saveAdapter(model, folder) writes any method in this library's own format, and merge(model) makes plain weights`,
    );
  return [main, ...(main.beside ?? []).filter(its)];
}

export interface Found {
  readonly path: string;
  readonly place: Place | null;
  readonly own: Tables;
  readonly options: Options;
  readonly config: Options | null;
  readonly had: (suffix: string) => boolean;
}
/** What a format may ask about one of these. */
export const spot = (model: Model, f: Found, places: readonly Place[] = []): Spot<Options> =>
  spotOf(model, { ...f, places }, new Map(Object.entries(f.own).map(([name, t]) => [name, t.shape])));

/** What is attached, format by format and place by place. */
export async function attachmentsOf(
  model: Model,
  formats: readonly AnyFormat[],
  names: Names,
  engine: Engine | undefined,
  like: PeftFiles | undefined,
): Promise<readonly (readonly Found[])[]> {
  const places = formats.map((f) => new Map(placesFor(f, names, model).flatMap((p) => sitesOf(f, p).map((s) => [s, p] as const))));
  const found = formats.map((): Found[] => []);
  for (const { path, layer } of layers(model)) {
    const { attached } = layer;
    if (attached === null) continue;
    const possible = [...formats.keys()].filter((k) => formats[k]!.method === attached.method);
    const k = possible.find((n) => formats[n]!.on === 'network' || places[n]!.has(path));
    if (k === undefined)
      throw new Error(
        `savePeft: ${attached.method} is attached at ${path}, and Hugging Face PEFT has it only at ${possible.map((n) => where(formats[n]!)).join(', ')}`,
      );
    const format = formats[k]!;
    const place = format.on === 'network' ? null : places[k]!.get(path)!;
    if (place?.turned && !format.conv1d && place.kind === 'linear')
      throw new Error(
        `savePeft: ${format.method} is attached at ${path}, and Hugging Face PEFT does not have it for GPT-2's ${place.module} (a Conv1D); saveAdapter(model, folder) writes it in this library's own format`,
      );
    const field: Field = (format.finished ? attached.finish?.() : null) ?? layer.fields[attached.field] ?? null;
    const own = ownOf(engine === undefined ? field : await realize(field, engine));
    const tables = Object.fromEntries(
      [...own].map(([name, t]) => {
        const table = tableOf(t);
        if (table === null)
          throw new Error(`savePeft: ${name} at ${path} is a recipe, not numbers yet; pass an engine: savePeft(model, folder, { engine })`);
        return [name, table];
      }),
    );
    const o = attached.application.config as Options; // a seam: formats know the options of their method
    found[k]!.push({
      path,
      place,
      own: format.made?.(tables, o) ?? tables,
      options: format.normal?.(o, tables) ?? o,
      config: like?.config ?? null,
      had: (suffix) => like?.dtypes.has(keyOf(place, suffix)) === true,
    });
  }
  return found.map((of, k) => [...of, ...idle(formats[k]!, of)]);
}
/** Parts of adapted norms that are not adapted themselves: with a change of nothing, because their file has norms whole. */
function idle(format: AnyFormat, found: readonly Found[]): readonly Found[] {
  const { nothing } = format;
  if (nothing === undefined) return [];
  const there = new Set(found.map((f) => f.path));
  return found.flatMap((f) =>
    sitesOf(format, f.place!)
      .filter((path) => !there.has(path))
      .map((path) => ({ ...f, path, own: nothing(Object.values(f.own)[0]!.shape) })),
  );
}

/** Attachments to parts of one matrix of theirs, as one. */
export function whole(format: AnyFormat, found: readonly Found[], model: Model): Found[] {
  const parts = new Map<string, Found[]>();
  for (const f of found) if (f.place?.rows != null) parts.set(f.place.module, [...(parts.get(f.place.module) ?? []), f]);
  return [
    ...found.filter((f) => f.place?.rows == null),
    ...[...parts].map(([module, pieces]) => {
      const first = pieces[0]!;
      const place = { ...first.place!, rows: null };
      const refuse = (why: string): never => {
        throw new Error(
          `savePeft: ${format.method} on ${pieces.map((p) => p.path).join(', ')} is one matrix, ${module}, in Hugging Face's GPT-2, ${why}; build the model with fusedQkv: true`,
        );
      };
      if (format.byRows === undefined) return refuse('and this method cannot be put together from parts');
      const own = stackedRows(format, pieces, model);
      if (own !== null) return { ...first, place, own };
      const joined = format.joined?.(pieces.map((p): Piece<Options> => ({ options: p.options, own: p.own, rows: p.place!.rows! }))) ?? null;
      return joined === null ? refuse('and these parts do not fit into one') : { ...first, place, ...joined };
    }),
  ];
}
/** The parts under each other, where all of the matrix is there and what they share is the same. */
function stackedRows(format: AnyFormat, pieces: readonly Found[], model: Model): Tables | null {
  const sorted = pieces.toSorted((a, b) => a.place!.rows!.from - b.place!.rows!.from);
  const { of } = sorted[0]!.place!.rows!;
  if (sorted.reduce((n, p) => n + p.place!.rows!.to - p.place!.rows!.from, 0) !== of) return null;
  if (sorted.some((p) => JSON.stringify(p.options) !== JSON.stringify(sorted[0]!.options))) return null;
  const encoded = sorted.map((p) => format.encode(p.own, spot(model, p)));
  const joint: Record<string, Table> = {};
  for (const [suffix, first] of Object.entries(encoded[0]!)) {
    const all = encoded.map((e) => e[suffix]!);
    if (format.byRows!.includes(suffix))
      joint[suffix] = { data: Float64Array.from(all.flatMap((t) => [...t.data])), shape: [of, ...first.shape.slice(1)] };
    else if (all.every((t) => equal(t.data, first.data))) joint[suffix] = first;
    else return null;
  }
  // back to our names on the whole matrix
  const get = Object.assign((suffix: string) => joint[suffix]!, { has: (suffix: string) => suffix in joint });
  return format.decode(get, spot(model, { ...sorted[0]!, place: { ...sorted[0]!.place!, rows: null } }));
}
export const equal = (a: Data, b: Data): boolean => a.length === b.length && a.every((v, k) => v === b[k]);
