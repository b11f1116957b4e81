// Real training of the small networks: for the law about a dozen steps, and for methods whose first stage is training.
import type { Engine } from '../../core/engine.ts';
import { crossEntropy } from '../../core/ops/fused.ts';
import type { Tensor } from '../../core/tensor.ts';
import { type Context, context } from '../../nn/context.ts';
import type { Model } from '../../nn/layer.ts';
import { adamw } from '../../optim/adamw.ts';
import { type Batch, type Fed, type Trainer, trainer } from '../../optim/trainer.ts';
import { type Network, TOKENS } from './models.ts';

type Text = { ids: Tensor; targets: Tensor };
const fed = (t: Tensor): Fed => {
  if (t.source.kind !== 'leaf') throw new Error('a network of the laws has its text as numbers');
  return { data: t.source.data, shape: t.shape };
};

/** A network's text to feed. */
export const textOf = (net: Network): Batch<Text> => ({ ids: fed(net.batch.ids), targets: fed(net.targets) });

/** A trainer of a model on a network's text. */
export const trainerOn = (net: Network, model: Model, engine: Engine, total: number, seed: number): Promise<Trainer<Model, Text>> =>
  trainer<Model, Text>(model, {
    engine,
    loss: (m, b, { draw, aux }: Context) => crossEntropy(m({ ...net.batch, ids: b.ids }, context(TOKENS, { draw, aux })), b.targets),
    optimizer: adamw({ lr: 0.02 }),
    total,
    seed,
  });

/** The model after a few steps. */
export async function briefly(net: Network, model: Model, engine: Engine, steps = 2): Promise<Model> {
  await using t = await trainerOn(net, model, engine, steps, 0);
  for (let k = 0; k < steps; k++) await t.step(textOf(net));
  return t.model();
}
