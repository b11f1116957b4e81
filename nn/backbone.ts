// What every model has under its head: ids become vectors, and vectors pass the trunk.
import { gather, iota } from '../core/ops/index.ts';
import { full, le, ne, where } from '../core/ops/map.ts';
import { reshape } from '../core/ops/move.ts';
import { here, within } from '../core/scope.ts';
import { ShapeError } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';
import type { Cache, Context, Seen } from './context.ts';
import { type AnyLayer, BASE, type Batch, isLayer, type Layer, type Model, ofKind } from './layer.ts';

/** Fields a model shares with any head put on it. */
export type Backbone = {
  readonly embed: Layer<'embedding'>;
  readonly types: Layer<'embedding'> | null; // BERT's segment embeddings
  readonly trunk: Layer<'trunk'>;
  readonly causal: boolean; // a decoder: no token sees the ones after it
  readonly padding: number | null; // the id that RoBERTa does not count when it counts positions; null: all ids count
};

/** The context a backbone gives its layers: causal or not, the mask of the batch unless there is one already, and the text's ids. */
export function inside(f: Backbone, { ids, keyMask }: Batch, ctx: Context): Context {
  const mask = ctx.keyMask ?? keyMask ?? null;
  const { path } = here();
  const known: { seen?: Seen } = {};
  return { ...ctx, causal: f.causal, keyMask: mask, seen: () => (known.seen ??= within({ path }, () => seen(ids, mask, ctx.cache))) };
}

/** Ids go through the cache as keys of one head and one feature. */
function seen(ids: Tensor, keyMask: Tensor | null, cache: Cache | null): Seen {
  if (cache === null) return { ids, used: keyMask };
  const [b, t] = ids.shape as readonly [number, number];
  const asKeys = reshape(ids, [b, 1, t, 1]);
  const all: ReturnType<Cache['exchange']> = cache.exchange(asKeys, asKeys);
  return { ids: reshape(all.k, [b, all.k.shape[2]!]), used: all.keyMask ?? keyMask };
}

/** ids [B, T] (and types [B, T]) → hidden states [B, T, D]. Without types, every token is of type 0. */
export function hidden(f: Backbone, { ids, types }: Batch, c: Context): Tensor {
  const words = f.embed(ids, c); // [B, T, D]
  if (f.types === null && types != null)
    throw new ShapeError('model: the batch has token types, but this model has no embedding for them; leave types out');
  const at = f.padding === null ? c : { ...c, positions: counted(ids, f.padding, c.positions) };
  return f.trunk(f.types === null ? words : words.add(f.types(types ?? full(ids.shape, 0), c)), at);
}

/** Positions [B, T] that count only real ids, wherever the padding stands; padding itself is one before the first, as RoBERTa has it. */
function counted(ids: Tensor, padding: number, positions: Tensor): Tensor {
  const t = ids.shape[1]!;
  const real = ne(ids, padding); // [B, T]
  const upTo = real.matmul(le(reshape(iota(t), [t, 1]), iota(t))); // [B, T]: real ids up to each, itself included
  return where(real, positions.add(upTo).sub(iota(t).add(1)), -1);
}

/** One token of each row: h [B, T, D], at [B] → [B, 1, D]. */
export function pickToken(h: Tensor, at: Tensor): Tensor {
  const [b, t, d] = h.shape as readonly [number, number, number];
  return reshape(gather(reshape(h, [b * t, d]), at.add(iota(b).mul(t))), [b, 1, d]);
}

/** The backbone of a model, shared and not copied; throws where it has none to show. */
export function backboneOf(model: Model): Backbone {
  if (model.attached !== null)
    throw new Error(`${model.attached.method} is attached to the whole model; put the head on the model first, then attach the method`);
  const { embed, types, trunk, causal, padding } = model.fields;
  if (!isLayer(embed) || !isLayer(trunk) || typeof causal !== 'boolean')
    throw new Error(
      `this model shows no embed, trunk and causal (it shows ${Object.keys(model.fields).join(', ')}), so no head can be put on it`,
    );
  return {
    embed: ofKind(embed, 'embedding'),
    types: isLayer(types) ? ofKind(types, 'embedding') : null,
    trunk: ofKind(trunk, 'trunk'),
    causal,
    padding: typeof padding === 'number' ? padding : null,
  };
}

/** A number a layer shows (width, longest, …), methods around it looked through; null where there is none of that name. */
export function numberOf(l: AnyLayer, name: string): number | null {
  const [own, base] = [l.fields[name], l.fields[BASE]];
  if (l.attached !== null && isLayer(base)) return numberOf(base, name);
  return typeof own === 'number' ? own : null;
}
