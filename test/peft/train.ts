// A few real training steps on one of the small networks, for tests of what methods do while they train.
import type { Engine } from '../../core/engine.ts';
import { crossEntropy } from '../../core/ops/fused.ts';
import type { Tensor } from '../../core/tensor.ts';
import { type Context, context } from '../../nn/context.ts';
import type { Model } from '../../nn/layer.ts';
import { adamw } from '../../optim/adamw.ts';
import type { Optimizer } from '../../optim/optimizer.ts';
import { type Fed, type Trainer, trainer } from '../../optim/trainer.ts';
import { type Network, TOKENS } from '../laws/models.ts';

const fed = (t: Tensor): Fed => {
  if (t.source.kind !== 'leaf') throw new Error('the small networks have their text as numbers');
  return { data: t.source.data, shape: t.shape };
};

export type Batch = { ids: Tensor; targets: Tensor };
export const trainerOn = (
  engine: Engine,
  net: Network,
  model: Model,
  { total = 6, optimizer = adamw({ lr: 0.02 }), seed = 0 }: { total?: number; optimizer?: Optimizer; seed?: number } = {},
): Promise<Trainer<Model, Batch>> =>
  trainer(model, {
    engine,
    loss: (m: Model, b: Batch, { draw, aux }: Context) =>
      crossEntropy(m({ ...net.batch, ids: b.ids }, context(TOKENS, { draw, aux })), b.targets),
    optimizer,
    total,
    seed,
  });
export const batchOf = (net: Network): { ids: Fed; targets: Fed } => ({ ids: fed(net.batch.ids), targets: fed(net.targets) });

/** The model after `total` steps on the network's text; `each` sees it after every one of them. */
export async function trained(
  engine: Engine,
  net: Network,
  model: Model,
  options: Parameters<typeof trainerOn>[3] = {},
  each: (m: Model, step: number) => Promise<void> = async () => {},
): Promise<Model> {
  await using t = await trainerOn(engine, net, model, options);
  for (let k = 1; k <= (options?.total ?? 6); k++) {
    await t.step(batchOf(net));
    await each(await t.model(), k);
  }
  return t.model();
}
