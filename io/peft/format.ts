// What the files of one method look like: which fields its configuration has, and how their tensors are made of ours and back.
import type { z } from 'zod';
import type { Data } from '../../core/tensor.ts';
import type { Model } from '../../nn/layer.ts';
import type { Transform } from '../../peft/method.ts';
import type { Json } from '../adapterJson.ts';
import type { Place, Rows } from '../names.ts';
import type { Dtype } from '../numbers.ts';
import type { Common } from './config.ts';

export interface Table {
  readonly data: Data;
  readonly shape: readonly number[];
  /** Its number type in the file, where that is not the others'. */
  readonly dtype?: Dtype;
}
export type Tables = Readonly<Record<string, Table>>;

/** A field of a configuration: what it may be, what it is when nobody says, and whether Python has it as a real number (8.0). */
export interface FieldOf<T extends z.ZodType = z.ZodType> {
  readonly type: T;
  readonly otherwise: Json;
  readonly real: boolean;
}
export const field = <T extends z.ZodType>(type: T, otherwise: Json, real = false): FieldOf<T> => ({ type, otherwise, real });
export type FieldsOf = Readonly<Record<string, FieldOf>>;
export type ConfigOf<F extends FieldsOf> = Common & { readonly [K in keyof F]: z.infer<F[K]['type']> };

/** One attachment, as a format sees it. */
export interface Spot<C> {
  readonly options: C;
  /** The layer; null for what stands on the whole network. */
  readonly place: Place | null;
  /** All layers it is attached to, in the network's order: for what they share. */
  readonly places: readonly Place[];
  /** Our path of the attachment: the layer's, or that of its weight or bias. */
  readonly path: string;
  /** The configuration in the file; null where a new one is being made. */
  readonly config: Readonly<Record<string, unknown>> | null;
  /** Whether the file has such a tensor here; no where a new one is being made. */
  had(suffix: string): boolean;
  /** Shapes of what our method holds here, by name. */
  readonly own: ReadonlyMap<string, readonly number[]>;
  /** Numbers of the network beneath: a norm's gain. */
  base(name: Part): Table;
  /** A number of the network: width, heads, kvHeads, headWidth, layers. */
  size(name: string): number;
}
export type Part = 'weight' | 'bias';
/** A tensor of the file by the end of its key; throws where there is none. Keys that start with base_model. are whole. */
export interface Get {
  (suffix: string): Table;
  has(suffix: string): boolean;
}

/** One of several attachments that together are one matrix of theirs. */
export interface Piece<C> {
  readonly options: C;
  readonly own: Tables;
  readonly rows: Rows;
}
export interface Joined<C> {
  readonly options: C;
  readonly own: Tables;
}
/** What a new configuration is made of. */
export interface Whole {
  /** Modules of the network that could be named. */
  readonly modules: readonly string[];
  /** What the part of the file before this one made, where one is attached: of a file that holds two methods, the second adds to it. */
  readonly beside: { readonly [key: string]: Json } | null;
  /** The folder that it will be in. */
  readonly folder: string;
  size(name: string): number;
}
/** What a network is, as far as a format may refuse it. */
export interface Shown {
  readonly encoder: boolean;
  /** Its head has the embedding's table. */
  readonly tied: boolean;
  /** What precedes names inside the network proper: 'model.'. */
  readonly prefix: string;
}
export type NewConfig<F extends FieldsOf> = Partial<Readonly<Record<keyof F | 'target_modules', Json>>>;

export interface Format<C, F extends FieldsOf = FieldsOf> {
  readonly peftType: string;
  /** The name of our method. */
  readonly method: string;
  readonly fields: F;
  /** Which configurations of this type are this method, where several share one. */
  readonly is?: (c: ConfigOf<F>) => boolean;
  /** What it attaches to: linear layers, their weights or biases, gains and shifts of norms, embeddings, their tables, whole attentions, or the network. */
  readonly on: 'linear' | 'weight' | 'bias' | 'norm' | 'embedding' | 'table' | 'branch' | 'network';
  /** Whether the library has it for GPT-2's Conv1D. */
  readonly conv1d: boolean;
  /** Where target_modules means something of its own. */
  readonly targets?: (c: ConfigOf<F>, places: readonly Place[]) => readonly Place[];
  /** Configuration → options of our method, for each layer (null: the network). Throws, with the field, where this library cannot do it. */
  readonly options: (c: ConfigOf<F>, places: readonly Place[]) => (place: Place | null) => C;
  readonly attach: (options: C & { readonly where: (path: string) => boolean }, starts: ReadonlyMap<string, unknown>) => Transform;
  /** What the method would otherwise prepare for a layer, where shapes follow from the file; `attach` gets it by our path. */
  readonly start?: (get: Get, spot: Spot<C>) => unknown;
  /** Our options at each layer → configuration. */
  readonly config: (at: readonly At<C>[], whole: Whole) => NewConfig<F>;
  readonly decode: (get: Get, spot: Spot<C>) => Tables;
  readonly encode: (own: Tables, spot: Spot<C>) => Tables;
  /**
   * Tensors of theirs that are cut by rows where one matrix of theirs is several layers here; the others are the same for each. A method
   * without this cannot be read or written there.
   */
  readonly byRows?: readonly string[];
  /** Several attachments as one on the whole matrix, exactly; null where that needs something they do not have. */
  readonly joined?: (pieces: readonly Piece<C>[]) => Joined<C> | null;
  /** Our options as the file needs them, from what the tensors say. */
  readonly normal?: (options: C, own: Tables) => C;
  /** What the file is made of, where our tensors are not it yet: out of them and our options as they were. */
  readonly made?: (own: Tables, options: C) => Tables;
  /** Tensors that change nothing, for a part of a norm that is not adapted while the file must have all of it. */
  readonly nothing?: (shape: readonly number[]) => Tables;
  /** Their file has what `finish` makes (a prompt without its encoder). */
  readonly finished?: true;
  /** Why the library answers something else with this file on such a network; null where it does not. */
  readonly refuses?: (network: Shown, c: ConfigOf<F> | null) => string | null;
  /** Keys of what the last step of training left in the file: it changes no answer, and is written again with `like`. */
  readonly leftovers?: RegExp;
  /** Names of ours that the file does not have and need not: buffers of training, and what `start` has given already. */
  readonly unsaved?: readonly string[];
  /** What the same file may hold besides, where it finds a place: LoRA on embeddings beside LoRA on layers. Their fields are this format's. */
  readonly beside?: readonly AnyFormat[];
  /** Not at a module that another part of the file adapts. */
  readonly alone?: true;
  /** Of a method over trained LoRAs, each in a folder of its own. */
  readonly over?: Over;
}

/** The experts that a configuration names. */
export interface NamedExperts {
  readonly experts: readonly NamedExpert[];
  /** LoRAs of general knowledge, to be subtracted from each. */
  readonly general: readonly NamedExpert[];
}
export interface NamedExpert {
  readonly name: string;
  /** Where the configuration says it is: text of a stranger. Null where it says nothing. */
  readonly path: string | null;
}
/** The factors of one LoRA at one place. */
export interface FactorTables {
  readonly A: Table;
  readonly B: Table;
}
/** What a method over LoRAs in folders of their own has to do with them. */
export interface Over {
  /** The folder of the method's own two files within the adapter's: '' is that itself. */
  readonly folder: string;
  /** Throws, with the field, where the names cannot be those of folders. */
  readonly named: (c: Common) => NamedExperts;
  /** The format once its experts are read. Throws where they do not fit each other. */
  readonly made: (experts: readonly Model[], general: readonly Model[]) => AnyFormat;
  /** Of what is attached, the factors of each expert by the path of its place. */
  readonly factors: (found: readonly Held[], model: Model) => readonly ReadonlyMap<string, FactorTables>[];
  /** Scale α/r of each expert. */
  readonly scales: (options: Readonly<Record<string, unknown>>) => readonly number[];
  /** Fields of the configuration that say where they are, when they are not any more what they were where it says. */
  readonly moved: (config: { readonly [key: string]: Json }, folder: string) => { readonly [key: string]: Json };
  /** What to know where a tensor is missing. */
  readonly advice: string;
}
/** An attachment, as far as its experts go. */
export interface Held {
  readonly path: string;
  readonly own: Tables;
  readonly options: Readonly<Record<string, unknown>>;
}
export interface At<C> {
  readonly module: string;
  readonly path: string;
  readonly place: Place | null;
  readonly options: C;
}
/** A format with its method's types forgotten: what lists hold. */
export type AnyFormat = Format<Readonly<Record<string, unknown>>>;
export const asAny = <C, F extends FieldsOf>(f: Format<C, F>): AnyFormat => f as unknown as AnyFormat; // the seam that forgets C and F

/** A format, and what a file of this configuration may hold besides. */
export const partsOf = (format: AnyFormat, c: Common): readonly AnyFormat[] => [
  format,
  ...(format.beside ?? []).filter((f) => f.is?.(c as never) ?? true),
];

/** Something a configuration asks for that this library does not do. */
export class Unsupported extends Error {
  override readonly name = 'Unsupported';
}

/** Tensors that only have other names. */
export const renamed = (names: Readonly<Record<string, string>>): { decode: (get: Get) => Tables; encode: (own: Tables) => Tables } => ({
  decode: (get) => Object.fromEntries(Object.entries(names).map(([ours, theirs]) => [ours, get(theirs)])),
  encode: (own) => Object.fromEntries(Object.entries(names).map(([ours, theirs]) => [theirs, own[ours]!])),
});

/** The one value that all attachments have; throws where they differ. */
export function same<C, V>(at: readonly At<C>[], name: string, value: (c: C) => V): V {
  const first = value(at[0]!.options);
  const other = at.find((a) => value(a.options) !== first);
  if (other !== undefined)
    throw new Unsupported(
      `${name} is ${String(first)} at ${at[0]!.module} and ${String(value(other.options))} at ${other.module}; one adapter file has one, so save them apart`,
    );
  return first;
}
/** A table with its dimensions in another order: [2, 0, 1] makes [c, a, b] of [a, b, c]; its shape is `shape` when it is read as such. */
export function permuted({ data, shape: own }: Table, order: readonly number[], shape: readonly number[] = own): Table {
  const strides = shape.map((_, d) => shape.slice(d + 1).reduce((a, b) => a * b, 1));
  const to = order.map((d) => shape[d]!);
  const turned = Float64Array.from({ length: data.length }, (_, k) => {
    let [rest, at] = [k, 0];
    for (let d = to.length - 1; d >= 0; d--) {
      at += (rest % to[d]!) * strides[order[d]!]!;
      rest = Math.floor(rest / to[d]!);
    }
    return data[at]!;
  });
  return { data: turned, shape: to };
}
/** Half to even, as Python rounds. */
export const evenly = (x: number): number => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));

/** The value that most modules have, and the others by module. */
export function mostly<C>(
  at: readonly At<C>[],
  value: (c: C) => number,
): { readonly usual: number; readonly others: Readonly<Record<string, number>> } {
  const times = new Map<number, number>();
  for (const a of at) times.set(value(a.options), (times.get(value(a.options)) ?? 0) + 1);
  const usual = [...times].reduce((best, one) => (one[1] > best[1] ? one : best))[0];
  const others = at.filter((a) => value(a.options) !== usual).map((a) => [a.module, value(a.options)] as const);
  return { usual, others: Object.fromEntries(others) };
}
