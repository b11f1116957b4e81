// AdapterFusion's two stages: adapters trained one by one (knowledge extraction), then mixed for a target task (knowledge composition).
// Pfeiffer et al. 2021, arXiv 2005.00247, §3.
import type { Model } from '../../nn/layer.ts';
import type { Activation } from '../../nn/mlp.ts';
import { layers } from '../../nn/tree.ts';
import type { Options, Transform } from '../method.ts';
import { fusionOver } from './adapterFusion.ts';
import type { Bottleneck } from './bottleneck.ts';
import { listOf } from './bottleneck.ts';
import type { AdapterFusionConfig } from './fusionAttention.ts';

/** What one model knows: its Pfeiffer adapters by path. */
function knowledgeOf(model: Model, k: number): Map<string, { own: Bottleneck; activation: Activation }> {
  const found = new Map<string, { own: Bottleneck; activation: Activation }>();
  for (const { path, layer } of layers(model)) {
    if (layer.attached?.method !== 'pfeiffer') continue;
    if (found.has(path)) throw new Error(`fused: model ${k} has two Pfeiffer adapters at ${path}; keep one`);
    const { activation } = layer.attached.application.config as { readonly activation: Activation }; // a seam: pfeiffer's own configuration
    found.set(path, { own: layer.fields[layer.attached.field] as Bottleneck, activation });
  }
  if (found.size === 0) throw new Error(`fused: model ${k} has no Pfeiffer adapter; train one first: pfeiffer()(base)`);
  return found;
}

/** Knowledge composition: a fusion layer over the Pfeiffer adapters of these trained models, frozen, at the places that they have. */
export function fused(models: readonly Model[], options: Omit<Options<AdapterFusionConfig>, 'adapters' | 'where'> = {}): Transform {
  const all = models.map(knowledgeOf);
  const places = [...(all[0]?.keys() ?? [])];
  for (const [k, one] of all.entries()) {
    const odd = places.find((p) => !one.has(p)) ?? [...one.keys()].find((p) => !places.includes(p));
    if (odd !== undefined) throw new Error(`fused: models 0 and ${k} do not both have an adapter at ${odd}; train them at the same places`);
  }
  const known = new Map(places.map((path) => [path, listOf(all.map((one) => one.get(path)!.own))]));
  const adapters = all.map((one) => {
    const { own, activation } = one.get(places[0]!)!;
    return { bottleneck: own.down.shape[0]!, activation };
  });
  return fusionOver(known)({ ...options, adapters, where: places });
}

/** A task: a frozen network with the task's head on it, and whatever `train` needs to know. */
export interface Task<D> {
  readonly base: Model;
  readonly data: D;
}
/**
 * Both stages. Knowledge extraction: `attach` on each source task, trained on its own. Knowledge composition: all of them frozen, and a
 * fusion layer trained on the target. `train` answers the trained model.
 */
export async function adapterFusionStages<D>(
  sources: readonly Task<D>[],
  target: Task<D>,
  attach: Transform,
  train: (model: Model, data: D, stage: 'extraction' | 'composition') => Promise<Model>,
  options: Parameters<typeof fused>[1] = {},
): Promise<{ readonly adapters: readonly Model[]; readonly model: Model }> {
  const adapters: Model[] = [];
  for (const { base, data } of sources) adapters.push(await train(attach(base), data, 'extraction'));
  return { adapters, model: await train(fused(adapters, options)(target.base), target.data, 'composition') };
}
