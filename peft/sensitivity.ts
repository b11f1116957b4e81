// How much a loss depends on each entry of some weights: sums of functions of gradients over data, for methods that choose by them.
import type { Engine } from '../core/engine.ts';
import { grad } from '../core/grad.ts';
import { add, square } from '../core/ops/map.ts';
import { sum } from '../core/ops/reduce.ts';
import { show, size } from '../core/shape.ts';
import type { Store } from '../core/store.ts';
import { type Data, input, leaf, type Param, param, paramOf, stateOf, Tensor, topological } from '../core/tensor.ts';
import { BASE, type Batch, type Layer, layer, type Model } from '../nn/layer.ts';
import { substitute } from '../nn/tree.ts';
import type { Env } from './method.ts';
import { pick, type Site } from './site.ts';

/** The model with a tensor added to the weight of every site. */
export function shifted(sites: readonly Site<'weight'>[], shifts: readonly Tensor[]): Model {
  const by = new Map(sites.map((s, k) => [s.path, shifts[k]!]));
  return substitute(sites[0]!.root, 'weight', (l, path) => {
    const shift = by.get(path);
    return shift === undefined
      ? null
      : layer<'weight', { [BASE]: Layer<'weight'>; shift: Tensor }>(
          'weight',
          { [BASE]: l, shift },
          (f) => (ctx) => f[BASE](ctx).add(f.shift),
        );
  });
}

/** The weights of linear layers, as sites of their own. */
export const weightsOf = (method: string, sites: readonly Site<'linear'>[]): Site<'weight'>[] => {
  const found = new Map(
    pick(
      sites[0]!.root,
      'weight',
      sites.map((s) => `${s.path}.weight`),
      method,
    ).map((s) => [s.path, s]),
  );
  return sites.map((s) => found.get(`${s.path}.weight`)!);
};

/** The data a method was given, or an error that says how to give some. */
export function dataOf(
  method: string,
  { batches, loss }: Env,
): { batches: readonly Batch[]; loss: (model: Model, batch: Batch) => Tensor } {
  if (loss === undefined || batches === undefined || batches.length === 0)
    throw new Error(`${method}: it chooses by gradients of a loss on data; write prepare(model, { engine, batches, loss })`);
  return { batches, loss };
}

/** Batches of one example each: every tensor of numbers with as many rows as `ids` is cut into rows. */
export function examples(batches: readonly Batch[], most: number): Batch[] {
  const found: Batch[] = [];
  for (const batch of batches)
    for (let k = 0; k < batch.ids.shape[0]!; k++) {
      if (found.length >= most) return found;
      found.push(each(batch, (t) => (t.source.kind === 'leaf' && t.shape[0] === batch.ids.shape[0] ? row(t, t.source.data, k) : t)));
    }
  return found;
}
function row(t: Tensor, data: Data, k: number): Tensor {
  const n = size(t.shape.slice(1));
  return leaf(data.slice(k * n, (k + 1) * n), [1, ...t.shape.slice(1)]);
}
const each = (batch: Batch, f: (t: Tensor, name: string) => Tensor): Batch =>
  Object.fromEntries(Object.entries(batch).map(([name, v]) => [name, v instanceof Tensor ? f(v, name) : v])) as unknown as Batch;

/** What is summed for one batch: recipes in the shapes of the sites' weights. `gradients` differentiates by these weights. */
export type Score = (model: Model, batch: Batch, gradients: (loss: Tensor) => readonly Tensor[]) => readonly Tensor[];

/** Σ of a score over batches, for every site, accumulated where the engine computes; weights are shifted by `at`, which is 0 if left out. */
export async function scoreSums(
  method: string,
  sites: readonly Site<'weight'>[],
  { engine }: Env,
  batches: readonly Batch[],
  score: Score,
  at?: readonly Data[],
): Promise<Float64Array[]> {
  const probes = sites.map((s, k) => leaf(at?.[k] ?? new Float32Array(size(s.shape)), s.shape));
  const model = shifted(sites, probes);
  const sums = sites.map((s) => param(new Float32Array(size(s.shape)), s.shape, { active: false }));
  const store = engine.store();
  try {
    await overBatches(engine, store, batches, method, (batch) => {
      const scores = score(model, batch, (loss) => grad(loss, probes));
      const next = new Map<Param, Tensor>(sums.map((s, k) => [paramOf(s)!, add(stateOf(paramOf(s)!), scores[k]!)]));
      return { value: scores.map((s) => sum(square(s))).reduce(add), next };
    });
    const now = await store.read(sums.map((s) => paramOf(s)!));
    return sums.map((s) => Float64Array.from(now.get(paramOf(s)!)!));
  } finally {
    store.close();
  }
}

/** The loss of each batch. */
export async function lossesOf(
  method: string,
  { engine }: Env,
  batches: readonly Batch[],
  loss: (batch: Batch) => Tensor,
): Promise<number[]> {
  const store = engine.store();
  try {
    return await overBatches(engine, store, batches, method, (batch) => ({ value: loss(batch), next: new Map() }));
  } finally {
    store.close();
  }
}

/** One number for each batch, which must be finite, and updates as it is computed. One plan for each shape of batch. */
async function overBatches(
  engine: Engine,
  store: Store,
  batches: readonly Batch[],
  method: string,
  build: (batch: Batch) => { readonly value: Tensor; readonly next: ReadonlyMap<Param, Tensor> },
): Promise<number[]> {
  const plans = new Map<string, (batch: Batch) => Promise<number>>();
  const values: number[] = [];
  for (const [k, batch] of batches.entries()) {
    const shape = Object.entries(batch)
      .map(([name, t]) => `${name} ${t instanceof Tensor ? show(t.shape) : t}`)
      .join();
    const ready = plans.get(shape) ?? (await compiled(batch));
    plans.set(shape, ready);
    const value = await ready(batch);
    if (!Number.isFinite(value))
      throw new Error(`${method}: the gradients of batch ${k} are not finite, so nothing can be chosen by them; look at its loss`);
    values.push(value);
  }
  return values;

  async function compiled(first: Batch): Promise<(batch: Batch) => Promise<number>> {
    const fed = (t: Tensor, name: string): Tensor => (t.source.kind === 'leaf' ? input(`batch ${name}`, t.shape) : t);
    const { value, next } = build(each(first, fed));
    const read = new Set(topological([value]).flatMap(({ source: s }) => (s.kind === 'input' ? [s.name] : []))); // a loss may not look at all of a batch
    const plan = await engine.compile(store, { outputs: { value }, next });
    return async (batch) => {
      const feed: Record<string, Data> = {};
      each(batch, (t, name) => {
        if (t.source.kind === 'leaf' && read.has(`batch ${name}`)) feed[`batch ${name}`] = t.source.data;
        return t;
      });
      return (await plan.run(feed)).value[0]!;
    };
  }
}

/** Σ over batches of the gradient of their loss; weights are shifted by `at`, which is 0 if left out. */
export function gradientSums(method: string, sites: readonly Site<'weight'>[], env: Env, at?: readonly Data[]): Promise<Float64Array[]> {
  const { batches, loss } = dataOf(method, env);
  return scoreSums(method, sites, env, batches, (model, batch, gradients) => gradients(loss(model, batch)), at);
}
