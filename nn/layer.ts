// A layer is a function that shows what it closed over: its kind, its fields, and how to build it from other fields.
import { named } from '../core/scope.ts';
import { Tensor } from '../core/tensor.ts';
import type { Context } from './context.ts';
import type { Controller, Hooks } from './hooks.ts';

/** One call signature per kind of layer: these are the places where a PEFT method may attach. Shapes: B T D H. */
export interface Calls {
  weight: (ctx?: Context) => Tensor; // any tensor of the network; without a context, as in evaluation
  linear: (x: Tensor, ctx: Context) => Tensor; // [B, …, in] → [B, …, out]
  norm: (x: Tensor, ctx: Context) => Tensor;
  embedding: (ids: Tensor, ctx: Context) => Tensor; // [B, T] → [B, T, D]
  attend: (q: Tensor, k: Tensor, v: Tensor, ctx: Context) => Tensor; // [B, H, T, D] each, RoPE applied
  branch: (x: Tensor, ctx: Context) => Tensor; // a residual branch before its addition
  block: (h: Tensor, ctx: Context) => Tensor;
  trunk: (h: Tensor, ctx: Context) => Tensor; // adds absolute positions, then the blocks
  model: (batch: Batch, ctx: Context) => Tensor;
}
export type Kind = keyof Calls;
/** ids [B, T]; keyMask [B, T] marks real tokens with 1; types [B, T] are BERT's segment ids. */
export interface Batch {
  readonly ids: Tensor;
  readonly keyMask?: Tensor | null;
  readonly types?: Tensor | null;
}

/** What a layer may hold: numbers and names of its configuration, tensors, other layers, lists and records of these. */
export type Field = Tensor | AnyLayer | string | number | boolean | null | readonly Field[] | { readonly [name: string]: Field };
export type Fields = { readonly [name: string]: Field };

/** Left by a method on the layer it made, for merging, training, saving and reporting. */
export interface Attached {
  readonly method: string; // name of the method
  readonly field: string; // the field that holds its tensors: the method's name, numbered when repeated
  readonly hooks: Hooks;
  readonly fold: ((w: Weights) => Weights) | null;
  readonly finish: (() => Fields) | null; // an equivalent, smaller set of the method's tensors
  readonly application: Application;
  readonly acrossRows?: string; // why a row's result depends on the batch's other rows, where it does
  readonly byRow: boolean; // whether its equation holds for tensors [B, …] that differ from row to row of a batch
  readonly under: AnyLayer; // the layer without this method: not what is beneath where the method replaced that layer's weight
}
/** One call of a method on a model: shared by all the layers it made there. */
export interface Application {
  readonly method: string;
  readonly config: unknown;
  /** The method's own options, which need not be written down where nobody chose others. */
  readonly defaults?: object;
  /** Decides between steps for all its places together, given the tensors it brought to each. */
  readonly control: ((at: readonly { readonly path: string; readonly own: Fields }[]) => Controller) | null;
}
/** The tensors of a place that can be folded into: a linear, norm or embedding has a weight and maybe a bias. */
export interface Weights {
  readonly weight: Tensor;
  readonly bias: Tensor | null;
}

/** What a layer shows of itself. */
export interface AnyLayer<K extends Kind = Kind> {
  readonly kind: K;
  readonly fields: Fields;
  readonly attached: Attached | null;
  /** The same layer over other fields. */
  with(fields: Fields): AnyLayer<K>;
}
export type Layer<K extends Kind> = Calls[K] & AnyLayer<K>;
export type Model = Layer<'model'>;

export const isLayer = (f: Field | undefined): f is AnyLayer => typeof f === 'function';
/** A layer read out of a tree, callable again: the one place that trusts `kind`. */
export function ofKind<K extends Kind>(f: Field | undefined, kind: K): Layer<K> {
  if (!isLayer(f) || f.kind !== kind) throw new Error(`expected a layer of kind ${kind}, found ${isLayer(f) ? f.kind : typeof f}`);
  return f as Layer<K>;
}
export const isRecord = (f: Field | undefined): f is Fields =>
  typeof f === 'object' && f !== null && !Array.isArray(f) && !(f instanceof Tensor);

/**
 * Makes a layer. `body` receives the fields and returns the call; a sub-layer called through its field works in the scope
 * of that field's name, so paths in errors, profiles and graphs are the paths in the tree.
 */
export function layer<K extends Kind, F extends Fields>(
  kind: K,
  fields: F,
  body: (f: F) => Calls[K],
  attached: ((f: F) => Attached) | null = null,
): Layer<K> {
  const call = body(scoped(fields) as F);
  const info: AnyLayer<K> = {
    kind,
    fields,
    attached: attached === null ? null : attached(fields),
    with: (changed) => layer(kind, changed as F, body, attached), // a seam: fields are replaced by their own kind
  };
  return Object.assign((...args: never[]) => (call as (...a: never[]) => Tensor)(...args), info) as Layer<K>;
}

/** The layer beneath an attachment, or another layer put around one, keeps the path of what is around it. */
export const BASE = 'base';

function scoped(f: Field, name = ''): Field {
  if (isLayer(f)) {
    if (name === BASE) return f;
    const inner = f as unknown as (...args: unknown[]) => Tensor;
    const info: AnyLayer = { kind: f.kind, fields: f.fields, attached: f.attached, with: f.with };
    return Object.assign((...args: unknown[]) => named(name, () => inner(...args)), info);
  }
  if (Array.isArray(f)) return f.map((e: Field, i) => scoped(e, `${name}.${i}`));
  if (isRecord(f)) return Object.fromEntries(Object.entries(f).map(([k, v]) => [k, scoped(v, name === '' ? k : `${name}.${k}`)]));
  return f;
}
