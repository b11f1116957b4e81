// Measures a model on batches without training it: a frozen base, a merged model, any tree.
import type { Engine } from '../core/engine.ts';
import { show } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';
import { type Context, context } from '../nn/context.ts';
import type { Field } from '../nn/layer.ts';
import { type Batch, data, type Fed, inputs } from './trainer.ts';

/**
 * The mean over batches of `measure` (a loss, an accuracy), without randomness, each counting as `weigh` says (all alike). Batches of
 * the same shape share a plan.
 * Parameters have the values they start from; inside a training use `trainer.evaluate`.
 */
export async function evaluate<M extends Field, B extends object>(
  model: M,
  {
    engine,
    measure,
    batches,
    weigh = () => 1,
  }: {
    engine: Engine;
    measure: (model: M, batch: B, ctx: Context) => Tensor;
    batches: Iterable<Batch<B>>;
    weigh?: (batch: Batch<B>) => number;
  },
): Promise<number> {
  const store = engine.store();
  let [total, weight, count] = [0, 0, 0];
  try {
    for (const batch of batches) {
      const parts = Object.entries<Fed>(batch);
      const tokens = parts[0]?.[1].shape.at(-1);
      if (tokens === undefined) throw new RangeError(`evaluate: a batch has no parts, or its first one has shape ${show([])}`);
      const plan = await engine.compile(store, { outputs: { value: measure(model, inputs(batch), context(tokens)) } });
      const w = weigh(batch);
      total += w * (await plan.run(data(batch))).value[0]!;
      weight += w;
      count++;
    }
  } finally {
    store.close();
  }
  if (count === 0) throw new RangeError('evaluate: no batches were given');
  return total / weight;
}
