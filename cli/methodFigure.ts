// A method's figure: the graph that the library builds for one place where the method is attached, as a small SVG.

import type { Engine } from '../core/engine.ts';
import { float64 } from '../core/engines/float64.ts';
import { dot, svg } from '../core/graph.ts';
import { within } from '../core/scope.ts';
import { type Data, input, leaf, paramOf, type Tensor } from '../core/tensor.ts';
import { context } from '../nn/context.ts';
import { freeze, withValues } from '../nn/freeze.ts';
import { type AnyLayer, type Kind, type Model, ofKind } from '../nn/layer.ts';
import { layers, tensors, trainable } from '../nn/tree.ts';
import type { Listed } from '../peft/listed.ts';
import type { Env } from '../peft/method.ts';
import { sitesOf } from '../peft/site.ts';
import { network, restore } from './demo.ts';

const TOKENS = 4;
const VOCABULARY = 12;
const SMALL = { width: 8, layers: 2, heads: 2, longest: 16 };

/** The network of the demo task, as small as the methods' small configurations want it. */
export const small = (): Model => freeze(network(VOCABULARY, 0, SMALL));

/** As if trained: every trained number a little larger. A figure shows what is computed, not how well. */
const moved = (model: Model): Model =>
  withValues(model, new Map([...trainable(model).keys()].map((p) => [p, Float64Array.from(p.value, (v) => v + 0.01)])));

/** A method's small configuration on the small network, prepared on a text of a few tokens. */
export async function smallAttached(m: Listed, base: Model, engine: Engine = float64()): Promise<Model> {
  const ids = leaf(
    Int32Array.from({ length: 2 * TOKENS }, (_, k) => k % VOCABULARY),
    [2, TOKENS],
  );
  const loss = (model: Model, b: { readonly ids: Tensor }): Tensor => restore(model, { ids: b.ids, targets: b.ids }, context(TOKENS));
  const env: Env = { engine, batches: [{ ids }], loss, train: async (model) => moved(model), seed: 0 };
  return (await m.tiny().prepare(base, env))(base);
}

/** A layer in the tree, and what it computes of inputs of the right shapes. */
function call({ layer: l, path }: { readonly layer: AnyLayer; readonly path: string }, base: Model): Tensor {
  const ctx = context(TOKENS, { keyMask: null, causal: false, seen: () => ({ ids: input('ids', [1, TOKENS]), used: null }) });
  const { width, heads } = SMALL;
  const x = (n: number): Tensor => input('x', [1, TOKENS, n]);
  switch (l.kind) {
    case 'weight':
      return ofKind(l, 'weight')(ctx);
    case 'linear':
      return ofKind(l, 'linear')(x(sitesOf(base, 'linear').find((s) => s.path === path)!.shape[1]!), ctx);
    case 'embedding':
      return ofKind(l, 'embedding')(input('ids', [1, TOKENS]), ctx);
    case 'attend': {
      const part = (name: string): Tensor => input(name, [1, heads, TOKENS, width / heads]);
      return ofKind(l, 'attend')(part('q'), part('k'), part('v'), ctx);
    }
    case 'norm':
    case 'block':
    case 'trunk':
      return ofKind(l, l.kind)(x(width), ctx);
    case 'branch':
      return ofKind(l, 'branch')(x(width), { ...ctx, residual: { stream: input('stream', [1, TOKENS, width]), norm: null } });
    case 'model':
      return ofKind(l, 'model')({ ids: input('ids', [1, TOKENS]) }, ctx);
    default:
      return l.kind satisfies never;
  }
}

/** The first place of a method; the smallest layer that holds a place of each kind where a composition has several. */
export function placeIn(model: Model, kinds: readonly Kind[]): { readonly layer: AnyLayer; readonly path: string } {
  const all = [...layers(model)];
  const own = all.filter(({ layer: l }) => l.attached !== null);
  if (kinds.length === 1 || own.length === 1) return own[0]!;
  const outer = own.find(({ layer: l }) => l.kind === 'trunk' || l.kind === 'model');
  if (outer !== undefined) return outer;
  const block = /^.*?\bblocks\.\d+/.exec(own[0]!.path)?.[0];
  return all.find(({ path }) => path === block) ?? all[0]!;
}

/** Layers of the network that are drawn as one node where they lie beneath the place. */
const WHOLE: ReadonlySet<Kind> = new Set(['branch', 'norm', 'embedding', 'attend', 'linear']);
/** Places whose own weights are drawn. */
const BARE: ReadonlySet<Kind> = new Set(['weight', 'linear', 'norm', 'embedding']);
/** Boxes in a figure, where folding can do it. */
const MOST_KERNELS = 24;

/**
 * DOT of what a method computes at one place: trained tensors and frozen ones by name, layers beneath the place as one node.
 * Folded once, what does not depend on the input is one node too; folded twice, each block is.
 */
export function figureDot(m: Listed, model: Model, base: Model, folded: 0 | 1 | 2): string {
  const place = placeIn(model, m.at);
  const beneath = place.path === '' ? '' : `${place.path}.`;
  const short = (path: string): string => (path.startsWith(beneath) ? path.slice(beneath.length) : path);
  const leaves = new Map<Data, string>();
  const own = new Set<Data>(); // frozen numbers that the method brought
  for (const { layer: l } of layers(model))
    if (l.attached !== null)
      for (const { tensor } of tensors(l.fields[l.attached.field] ?? null)) if (tensor.source.kind === 'leaf') own.add(tensor.source.data);
  const names = new Map(
    [...tensors(model)].flatMap(({ path, tensor }) => {
      if (tensor.source.kind === 'leaf' && (own.has(tensor.source.data) || BARE.has(place.layer.kind)))
        leaves.set(tensor.source.data, short(path).replaceAll(/\bbase\./g, ''));
      const p = paramOf(tensor);
      return p === null ? [] : [[p, short(path)] as const];
    }),
  );
  const inner = [...layers(model)].filter(({ path, layer: l }) => WHOLE.has(l.kind) && path.startsWith(beneath));
  const group = (path: string, fed: boolean): string | null => {
    const layer = inner.find((l) => path === l.path || path.startsWith(`${l.path}.`)); // outer ones come first
    const whole = layer?.path ?? (path.startsWith(beneath) ? /^.*\bblocks\.\d+\.[^.]+/.exec(path)?.[0] : undefined); // or a block that the method builds
    const block = folded === 2 && path.startsWith(beneath) ? /^.*\bblocks\.\d+/.exec(path)?.[0] : undefined;
    if (block !== undefined || whole !== undefined) return short(block ?? whole!);
    return fed || folded === 0 ? null : 'computed without the input';
  };
  return dot(
    within({ path: place.path }, () => call(place, base)),
    { names, leaves, depth: 0, group },
  );
}

/** As SVG, less what a reader does not see. */
export async function figure(m: Listed, base: Model): Promise<string> {
  const model = await smallAttached(m, base);
  const drawings = ([0, 1, 2] as const).map((folded) => figureDot(m, model, base, folded));
  const text = await svg(drawings.find((d) => (d.match(/^ *s\d+ \[/gm) ?? []).length <= MOST_KERNELS) ?? drawings[2]!);
  return `${text
    .replace(/^[\s\S]*?(?=<svg)/, '')
    .replaceAll(/<!--[\s\S]*?-->\n?/g, '')
    .replaceAll(/<title>[\s\S]*?<\/title>\n?/g, '')
    .replaceAll(/<a [^>]*>|<\/a>/g, '')
    .replaceAll(/<g( id="[^"]*")?>\n?<\/g>\n?/g, '')
    .replaceAll(/ id="[^"]*"| xmlns:xlink="[^"]*"| font-family="[^"]*"| class="[^"]*"| xlink:title="[^"]*"/g, '')
    .replaceAll(/(\d+\.\d)\d+/g, '$1')
    .replaceAll(/ text-anchor="middle"| font-size="10\.0+"/g, '')
    .replace('<svg ', '<svg font-family="Helvetica,sans-serif" font-size="10" text-anchor="middle" ')
    .trim()}\n`;
}
