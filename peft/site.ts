// A site: one place of a model where a method may attach, with what the method may ask about it.

import { halvesAtHand } from '../core/halves.ts';
import { nearest } from '../core/nearest.ts';
import { named as inside, within } from '../core/scope.ts';
import { type Shape, ShapeError } from '../core/shape.ts';
import type { Data, Tensor } from '../core/tensor.ts';
import type { Context } from '../nn/context.ts';
import { type AnyLayer, BASE, type Fields, isLayer, type Kind, type Layer, type Model, ofKind, type Weights } from '../nn/layer.ts';
import { layers } from '../nn/tree.ts';

/** Which sites: names (`'q'`, `'attn.q'`, a whole path, `'q|qkv'` for either), a regular expression over paths, or a function of the path. */
export type Where = string | readonly string[] | RegExp | ((path: string) => boolean);
/** The kinds of value that it is (options.ts). */
export const PLACES = [String, Array, Object] as const;

export interface Site<K extends Kind> {
  readonly path: string;
  readonly kind: K;
  readonly layer: Layer<K>;
  /** Place among the sites of this application, from 0. */
  readonly index: number;
  /** How many sites this application has. */
  readonly of: number;
  /** The field that holds the method's tensors here (lora, lora2 where one is beneath): a name for its draws. Empty before attaching. */
  readonly field: string;
  /** Number of the block it is in, or null outside the blocks. */
  readonly block: number | null;
  /** A number in the layer's fields: width, heads, kvHeads, headWidth, longest. */
  dim(name: string): number;
  /** [out, in] of the site's weight. */
  readonly shape: Shape;
  /** The weight in use, methods already attached included; throws where one of them cannot be folded. */
  weight(): Tensor;
  bias(): Tensor | null;
  /** Layers of the same block by the last part of their path: q k v o up gate down norm1 norm2 attn mlp. */
  readonly near: Readonly<Record<string, AnyLayer>>;
  /** The model the method attaches to. */
  readonly root: Model;
  /** The sites of a kind beneath this one, all or those `where` picks (an error when it picks none). */
  within<J extends Kind>(kind: J, where?: Where): readonly Site<J>[];
}

/** What stands under all attachments of a layer. */
export const bare = <K extends Kind>(l: AnyLayer<K>): Layer<K> =>
  l.attached === null ? ofKind(l, l.kind) : bare(ofKind(l.fields[BASE], l.kind));

/** The weight and bias a layer computes with, attached methods folded in; drawn like the layer's own where `ctx` is its context. */
export function effective(l: AnyLayer, path: string, ctx?: Context): Weights {
  const base = l.fields[BASE];
  if (l.attached !== null && isLayer(base)) {
    const { fold, method } = l.attached;
    if (fold === null)
      throw new Error(
        `${path}: ${method} cannot be folded into a weight, so the weight beneath it is not the whole layer; attach what needs the weight first, or merge less`,
      );
    return fold(effective(base, path, ctx));
  }
  if (l.kind === 'weight') return { weight: ofKind(l, 'weight')(ctx), bias: null };
  const { weight, bias } = l.fields;
  if (!isLayer(weight)) throw new Error(`${path}: a ${l.kind} has no weight of its own`);
  return {
    weight: inside('weight', () => ofKind(weight, 'weight')(ctx)),
    bias: isLayer(bias) ? inside('bias', () => ofKind(bias, 'weight')(ctx)) : null,
  };
}

/** Numbers that are there without computing: a frozen leaf's, those a parameter starts from, and halves. */
export function atHand(t: Tensor): Data | null {
  const s = t.source;
  return s.kind === 'leaf' ? s.data : s.kind === 'state' ? s.param.value : s.kind === 'view' ? atHand(s.of) : halvesAtHand(t);
}

/** Places in block `from` and all after it, by name: `fromBlock(2, 'mlp')` leaves out the first two blocks (AdapterDrop, the top blocks of LLaMA-Adapter). */
export const fromBlock =
  (from: number, where: Where): Where =>
  (path) =>
    (blockNumber(path) ?? -1) >= from && matches(where, path);
/** The block a path is in, or null outside the blocks. */
export function blockNumber(path: string): number | null {
  const block = blockOf(path);
  return block === null ? null : Number(block.split('.').at(-1));
}

const blockOf = (path: string): string | null => /^(.*?\bblocks\.\d+)(?=\.|$)/.exec(path)?.[1] ?? null;

/** Every site of a kind in a model, outermost layers only. */
export function sitesOf<K extends Kind>(model: Model, kind: K): Site<K>[] {
  const at = new Map<string, AnyLayer>();
  for (const { path, layer } of layers(model)) if (!at.has(path)) at.set(path, layer);
  const sameKind = new Map<string, AnyLayer>();
  for (const { path, layer } of layers(model)) if (layer.kind === kind && !sameKind.has(path)) sameKind.set(path, layer);
  return [...sameKind].map(([path, l], index) => {
    const block = blockOf(path);
    const dims = numbers(bare(l).fields);
    return {
      path,
      kind,
      root: model,
      layer: ofKind(l, kind),
      index,
      of: sameKind.size,
      field: '',
      block: block === null ? null : Number(block.split('.').at(-1)),
      dim: (name) => {
        const n = dims[name];
        if (n === undefined)
          throw new Error(`${path}: a ${kind} has no dimension ${name}; it has ${Object.keys(dims).join(', ') || 'none'}`);
        return n;
      },
      get shape() {
        return effective(bare(l), path).weight.shape;
      },
      within: (inner, where) => {
        const all = sitesOf(model, inner).filter((s) => s.path.startsWith(`${path}.`));
        return numbered(where === undefined ? all : choose(all, inner, where, path));
      },
      weight: () => within({ path }, () => effective(l, path).weight),
      bias: () => within({ path }, () => effective(l, path).bias),
      get near() {
        return Object.fromEntries(
          [...at].filter(([p]) => block !== null && p.startsWith(`${block}.`)).map(([p, x]) => [p.split('.').at(-1)!, x]),
        );
      },
    };
  });
}
const numbers = (f: Fields): Record<string, number> =>
  Object.fromEntries(Object.entries(f).filter((e): e is [string, number] => typeof e[1] === 'number'));

const named = (name: string, path: string): boolean => name.split('|').some((n) => path === n || path.endsWith(`.${n}`));
/** A method's own choice in every network: for q, k or v also the one layer that computes all three, as in GPT-2. q.weight → q.weight|qkv.weight */
export function orFused<W extends Where>(where: W): W | string | readonly string[] {
  const either = (name: string): string => name.replace(/^[qkv](\..*)?$/, (own, part = '') => `${own}|qkv${part}`);
  return typeof where === 'string' ? either(where) : Array.isArray(where) ? (where as readonly string[]).map(either) : where;
}
export function matches(where: Where, path: string): boolean {
  if (typeof where === 'string') return named(where, path);
  if (typeof where === 'function') return where(path);
  return where instanceof RegExp ? where.test(path) : where.some((w) => named(w, path));
}

/** The sites `where` picks, or an error that lists what there is and what was probably meant. */
export const pick = <K extends Kind>(model: Model, kind: K, where: Where, method: string, otherwise = ''): Site<K>[] =>
  numbered(once(choose(sitesOf(model, kind), kind, where, method, otherwise)));
/** A layer that stands at two paths (a tied weight) is one site, at the first. */
const once = <K extends Kind>(sites: readonly Site<K>[]): Site<K>[] =>
  sites.filter((s, k) => sites.findIndex((o) => o.layer === s.layer) === k);

const numbered = <K extends Kind>(sites: readonly Site<K>[]): Site<K>[] =>
  sites.map(
    (s, index) => Object.create(s, { index: { value: index, enumerable: true }, of: { value: sites.length, enumerable: true } }) as Site<K>,
  );

function choose<K extends Kind>(all: readonly Site<K>[], kind: K, where: Where, method: string, otherwise = ''): Site<K>[] {
  const paths = all.map((s) => s.path);
  const refuse = (name: string): never => {
    throw new ShapeError(nothing(method, kind, name, paths) + (otherwise === '' ? '' : ` ${otherwise}`));
  };
  const names = typeof where === 'string' ? [where] : Array.isArray(where) ? (where as readonly string[]) : [];
  for (const name of names) if (!paths.some((p) => named(name, p))) refuse(name.split('|')[0]!);
  const hit = all.filter((s) => matches(where, s.path));
  return hit.length === 0 ? refuse(String(where)) : hit;
}

function nothing(method: string, kind: Kind, name: string, paths: readonly string[]): string {
  const roles = [...new Set(paths.map((p) => p.split('.').at(-1)!))];
  const near = nearest(name, roles);
  return `${method}: where '${name}' matches no ${kind} of this model.${near.length > 0 ? ` Nearest: ${near.join(', ')}.` : ''} Its ${kind} sites: ${paths.length > 8 ? `${paths.slice(0, 8).join(', ')}, … (${paths.length})` : paths.join(', ') || 'none'}`;
}
