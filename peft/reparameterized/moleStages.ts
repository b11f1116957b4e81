// MoLE over trained models: the LoRAs of each are its experts.
// Wu, Huang & Wei 2024, arXiv 2404.13628, §3.3: the network and all LoRAs are frozen, and only the gates are trained.
import type { Model } from '../../nn/layer.ts';
import { layers } from '../../nn/tree.ts';
import type { Options, Transform } from '../method.ts';
import { type Factors, type LoraConfig, scaling } from './lora.ts';
import { type MoleConfig, moleOver } from './mole.ts';

/** The LoRA of one model by path, and its configuration. */
function lorasOf(model: Model, k: number): Map<string, { own: Factors; c: LoraConfig }> {
  const found = new Map<string, { own: Factors; c: LoraConfig }>();
  for (const { path, layer } of layers(model)) {
    if (layer.attached?.method !== 'lora') continue;
    if (found.has(path)) throw new Error(`mixtureOfLoras: model ${k} has two LoRAs at ${path}; merge one of them first`);
    const own = layer.fields[layer.attached.field] as Factors; // a seam: a layer does not know its method's types
    found.set(path, { own, c: layer.attached.application.config as LoraConfig });
  }
  if (found.size === 0) throw new Error(`mixtureOfLoras: model ${k} has no LoRA; train one first: lora()(base)`);
  return found;
}

/** Gates over the LoRAs of these trained models, frozen, at the places that all of them have. Ranks and scales may differ between models. */
export function mixtureOfLoras(models: readonly Model[], options: Omit<Options<MoleConfig>, 'experts' | 'where'> = {}): Transform {
  const all = models.map(lorasOf);
  const places = [...(all[0]?.keys() ?? [])];
  for (const [k, one] of all.entries()) {
    const odd = places.find((p) => !one.has(p)) ?? [...one.keys()].find((p) => !places.includes(p));
    if (odd !== undefined)
      throw new Error(`mixtureOfLoras: models 0 and ${k} do not both have a LoRA at ${odd}; train them at the same places`);
  }
  const experts = all.map((one, k) => {
    const [first, ...rest] = [...one.values()].map(({ c }) => ({ rank: c.rank, scale: scaling(c) }));
    if (rest.some(({ rank, scale }) => rank !== first!.rank || scale !== first!.scale))
      throw new Error(`mixtureOfLoras: model ${k} has LoRAs of several ranks or scales; give models with one each`);
    return first!;
  });
  const known = new Map(places.map((path) => [path, all.map((one) => one.get(path)!.own)]));
  return moleOver(known)({ ...options, experts, where: (path) => known.has(path) });
}
