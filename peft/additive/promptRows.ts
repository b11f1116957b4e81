// What prompt methods share: rows in front of an embedded text, and the rows that a real text has.
import { broadcastTo, concat } from '../../core/ops/move.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { context, shifted, withTokens } from '../../nn/context.ts';
import { BASE, type Layer, layer } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import type { Site } from '../site.ts';

/** Rows P [p, d], or [B, p, d], in front of the text; after the first pass of a generation they are in the cache, and only positions move. */
export const promptInFront =
  (call: Layer<'trunk'>, P: Tensor): ((...args: Parameters<Layer<'trunk'>>) => Tensor) =>
  (h, ctx) => {
    const p = P.shape.at(-2)!;
    return ctx.cache?.filled ? call(h, shifted(ctx, p)) : promptAndText(call, P)(h, ctx).slice(1, p); // [B, T, d]
  };

/** The same with the answers for the rows in front, [B, p + T, d]. */
export const promptAndText =
  (call: Layer<'trunk'>, P: Tensor): ((...args: Parameters<Layer<'trunk'>>) => Tensor) =>
  (h, ctx) => {
    const [p, d] = P.shape.slice(-2) as readonly number[] as readonly [number, number];
    const rows = broadcastTo(P, [h.shape[0]!, p, d]); // [B, p, d]
    return call(concat([rows, h], 1), withTokens(ctx, p));
  };

/**
 * Rows in front of what the first block reads: they get no position of a table and no first norm, and the text keeps the ones it has;
 * rotary positions count them, as every block does. `path` is the trunk's.
 */
export const promptBeforeBlocks =
  (call: Layer<'trunk'>, P: Tensor, path: string): ((...args: Parameters<Layer<'trunk'>>) => Tensor) =>
  (h, ctx) => {
    const [p, d] = P.shape.slice(-2) as readonly number[] as readonly [number, number];
    const inCache = ctx.cache?.filled === true;
    const rows = broadcastTo(P, [h.shape[0]!, p, d]); // [B, p, d]
    const within = substitute(
      call,
      'block',
      (l, at) =>
        layer('block', { [BASE]: l }, ({ [BASE]: l }) => (x, c) => {
          const first = at === `${path}.blocks.0` && !inCache;
          return l(first ? concat([rows, x], 1) : x, inCache ? shifted(c, p) : withTokens(c, p));
        }),
      path,
    );
    return inCache ? within(h, ctx) : within(h, ctx).slice(1, p); // [B, T, d]
  };

/** What arrives at a trunk for these ids: their embeddings, token types included. [1, p, d] */
export function embedded(site: Site<'trunk'>, ids: readonly number[]): Tensor {
  const seen: Tensor[] = [];
  const listening = substitute(site.root, 'trunk', (l, path) =>
    path === site.path
      ? layer('trunk', {}, () => (h) => {
          seen.push(h);
          return h;
        })
      : l,
  );
  listening({ ids: leaf(ids, [1, ids.length]) }, context(ids.length));
  return seen[0]!;
}
