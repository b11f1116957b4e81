// BitDelta for a network that has been tuned already: signs and scales of what the tuning changed, and the loss that trains the scales.
//   model = the tuned network, its chosen matrices those of the base + α·S;   loss = mean (logits − logits of the tuned network)²
// Liu et al. 2024, arXiv 2402.10193, §3. The authors' code: batches of 4 texts of 128 tokens, AdamW at 1e-4, the rate falling along a cosine; it
// trains what was not compressed (embedding, norms, head) besides, here only the scales are trained.
import type { Engine } from '../../core/engine.ts';
import { square } from '../../core/ops/map.ts';
import { param, paramOf, type Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import type { AnyLayer, Batch, Model } from '../../nn/layer.ts';
import { mapTensors, substitute, tensors } from '../../nn/tree.ts';
import { inBlocks } from '../../quant/quantize.ts';
import type { Env, Options } from '../method.ts';
import { pick, sitesOf } from '../site.ts';
import { bitDelta } from './bitDelta.ts';

/** A training that is over: what it would have made of a model is read from another one with the same weights by path. */
export const tunedAlready =
  (tuned: Model, engine: Engine): NonNullable<Env['train']> =>
  async (model) => {
    const [now, then] = [tuned, model].map((m) => new Map(sitesOf(m, 'weight').map((s) => [s.path, s])));
    const moved = new Map<string, Tensor>();
    for (const { path, tensor } of tensors(model)) {
      const at = path.replace(/\.shift$/, '');
      if (at === path || paramOf(tensor) === null) continue;
      const there = now!.get(at);
      if (there === undefined) throw new Error(`tunedAlready: the tuned model has no weight ${at}; it must be the same network`);
      const [w, base] = [(await engine.read(there.weight())).slice(), await engine.read(then!.get(at)!.layer())];
      if (w.length !== base.length)
        throw new Error(`tunedAlready: ${at} has ${w.length} numbers in the tuned model and ${base.length} here`);
      moved.set(
        path,
        param(
          w.map((v, k) => v - base[k]!),
          tensor.shape,
          { decay: false },
        ),
      );
    }
    return mapTensors(model, (t, path) => moved.get(path) ?? t);
  };

/** The tuned network as the base and one bit for each weight that `where` picks; the rest stays as tuned. Both frozen, over one architecture. */
export async function bitDeltaModel(
  base: Model,
  tuned: Model,
  engine: Engine,
  { where = inBlocks }: Pick<Options<object>, 'where'> = {},
): Promise<Model> {
  const weights = new Map<string, AnyLayer>(pick(base, 'linear', where, 'bitDelta').map((s) => [s.path, s.layer]));
  const start = substitute(tuned, 'linear', (l, path) => {
    const from = weights.get(path);
    return from === undefined ? null : l.with({ ...l.fields, weight: from.fields.weight! });
  });
  return (await bitDelta({ where }).prepare(start, { engine, train: tunedAlready(tuned, engine) }))(start);
}

/** What trains the scales: the mean squared difference of logits to a tuned network, which stays as it is. */
export const logitDistance =
  (tuned: Model) =>
  (model: Model, batch: Batch, ctx: Context): Tensor =>
    square(model(batch, ctx).sub(tuned(batch, ctx))).mean();
