// What linear layers are given to compute with: for methods that start from a network's activations.
import type { Numbers } from '../core/plan.ts';
import { size } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';
import { context } from '../nn/context.ts';
import { BASE, type Batch, layer, type Model } from '../nn/layer.ts';
import { substitute } from '../nn/tree.ts';
import type { Env } from './method.ts';
import type { Site } from './site.ts';

/** The inputs of the linear layers at `paths` when the model runs on a batch without randomness: recipes [B, …, in], one per call. */
export function inputsOf(model: Model, paths: ReadonlySet<string>, batch: Batch): ReadonlyMap<string, readonly Tensor[]> {
  const seen = new Map<string, Tensor[]>([...paths].map((p) => [p, []]));
  const watched = substitute(model, 'linear', (l, path) => {
    const calls = seen.get(path);
    if (calls === undefined) return null;
    return layer('linear', { [BASE]: l }, ({ [BASE]: l }) => (x, ctx) => {
      calls.push(x);
      return l(x, ctx);
    });
  });
  watched(batch, context(batch.ids.shape.at(-1)!));
  for (const [path, calls] of seen) if (calls.length === 0) throw new Error(`${path} is not called when the model runs on this batch`);
  return seen;
}

/** Numbers of `what` each linear layer is given, for every site and batch: one recipe per call, with the padding of a batch (keyMask 0) set to zero. */
export async function* observe(
  method: string,
  sites: readonly Site<'linear'>[],
  { engine, batches }: Env,
  what: (x: Tensor) => Tensor,
): AsyncGenerator<{ readonly site: Site<'linear'>; readonly calls: readonly Numbers[]; readonly batch: number }> {
  if (batches === undefined || batches.length === 0)
    throw new Error(`${method}: it starts from what the network computes on data; give prepare(model, { engine, batches }) some batches`);
  const paths = new Set(sites.map((s) => s.path));
  for (const [k, batch] of batches.entries()) {
    const recipes = inputsOf(sites[0]!.root, paths, batch);
    const outputs = Object.fromEntries(
      sites.flatMap((s) => recipes.get(s.path)!.map((x, call) => [`${s.index} ${call}`, what(withoutPadding(x, batch))] as const)),
    );
    const store = engine.store();
    try {
      const got = await (await engine.compile(store, { outputs })).run();
      for (const site of sites) yield { site, batch: k, calls: recipes.get(site.path)!.map((_, call) => got[`${site.index} ${call}`]!) };
    } finally {
      store.close();
    }
  }
}

/** [B, T, in] as rows [B·T, in], those of padding zero. */
function withoutPadding(x: Tensor, { keyMask, ids }: Batch): Tensor {
  const rows = x.reshape(-1, x.shape.at(-1)!);
  return keyMask && rows.shape[0] === size(ids.shape) ? rows.mul(keyMask.reshape(-1, 1)) : rows;
}
