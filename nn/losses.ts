// Losses over a model and a batch: what a trainer minimises.
import { checkpoint } from '../core/grad.ts';
import { crossEntropy, nll } from '../core/ops/fused.ts';
import { div, eq, max, ne } from '../core/ops/map.ts';
import { reshape, slice } from '../core/ops/move.ts';
import { argmax, sum } from '../core/ops/reduce.ts';
import { dim, ShapeError, same, show, size } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';
import type { Context } from './context.ts';
import type { Batch, Model } from './layer.ts';

/** Mean −log p(target) over the targets [B, T] that are not −100. The target of a token is the token after it. */
export const nextToken = (model: Model, batch: Batch & { readonly targets: Tensor }, ctx: Context): Tensor =>
  crossEntropy(model(modelBatch('nextToken', batch), ctx), needed('nextToken', 'targets', batch.targets));

/**
 * The same loss over a large vocabulary, without ever holding all logits [B·T, V]: `rows` positions at a time go through the head, and
 * backward computes their logits again.
 */
export const nextTokenInChunks =
  (rows: number) =>
  (model: Model, batch: Batch & { readonly targets: Tensor }, ctx: Context): Tensor => {
    if (!(Number.isInteger(rows) && rows >= 1)) throw new RangeError(`nextTokenInChunks: rows must be a whole number from 1, got ${rows}`);
    const targets = needed('nextTokenInChunks', 'targets', batch.targets);
    const readOut = (h: Tensor, head: (h: Tensor) => Tensor): Tensor => {
      const n = size(targets.shape);
      const [flat, wanted] = [reshape(h, [1, n, dim(h.shape, -1)]), reshape(targets, [1, n])];
      const parts = Array.from({ length: Math.ceil(n / rows) }, (_, k) => {
        const [from, to] = [k * rows, Math.min(n, (k + 1) * rows)];
        return checkpoint((x) => sum(nll(head(x), slice(wanted, 1, from, to))), slice(flat, 1, from, to));
      });
      return parts.reduce((a, b) => a.add(b));
    };
    const total = model(modelBatch('nextTokenInChunks', batch), { ...ctx, readOut });
    return div(total, max(sum(ne(targets, -100)), 1));
  };

/** Mean −log p(label) for a model that answers logits [B, C]; labels [B]. */
export function classify(model: Model, batch: Batch & { readonly labels: Tensor }, ctx: Context): Tensor {
  return crossEntropy(classLogits(model, batch, ctx), batch.labels);
}

/** The share of labels [B] that get the highest logit. */
export const accuracy = (model: Model, batch: Batch & { readonly labels: Tensor }, ctx: Context): Tensor =>
  eq(argmax(classLogits(model, batch, ctx)), batch.labels).mean();

function classLogits(model: Model, batch: Batch & { readonly labels: Tensor }, ctx: Context): Tensor {
  const labels = needed('classify', 'labels', batch.labels);
  const logits = model(modelBatch('classify', batch), ctx); // [B, C]
  if (!same(logits.shape.slice(0, -1), labels.shape))
    throw new ShapeError(
      `classify: logits ${show(logits.shape)} need labels ${show(logits.shape.slice(0, -1))}, got ${show(labels.shape)}; a classifier answers one row of logits per text`,
    );
  return logits;
}

const modelBatch = (loss: string, { ids, keyMask = null, types = null }: Batch): Batch => ({
  ids: needed(loss, 'ids', ids),
  keyMask,
  types,
});

/** What a batch must hold; batches come from files and forms, where a part is easily forgotten. */
function needed(loss: string, part: string, t: Tensor | undefined): Tensor {
  if (t === undefined) throw new ShapeError(`${loss}: the batch has no ${part}; feed { ${part}: { data, shape }, … }`);
  return t;
}

/** How many targets of a batch count: what micro-batches of `nextToken` are weighed by so that they add up to one batch. */
export function countTargets({ targets }: { readonly targets: { readonly data: ArrayLike<number> } }): number {
  let n = 0;
  for (let i = 0; i < targets.data.length; i++) if (targets.data[i] !== -100) n++;
  return n;
}
