// After AutoLoRA's search: the rank of every layer, and a fresh LoRA of those ranks.
//   rank of a layer: how many of its r selection variables are no less than their mean, α_j/Σα ≥ 1/r, as the authors' code counts; the forward
//   pass has softmax(α), whose shares `by: 'softmax'` counts
// Zhang et al. 2024 (NAACL), arXiv 2403.09113, §3.
import type { Model } from '../../nn/layer.ts';
import { layers } from '../../nn/tree.ts';
import { stack } from '../combinators.ts';
import type { Options, Transform } from '../method.ts';
import { atHand } from '../site.ts';
import type { AutoLora } from './autoLora.ts';
import { type LoraConfig, lora } from './lora.ts';

/** The rank of every layer with AutoLoRA, by path: how many of its α are no less than their mean, or whose softmax share is at least 1/r. */
export function ranksOf(model: Model, by: 'sum' | 'softmax' = 'sum'): Map<string, number> {
  const found = new Map<string, number>();
  for (const { path, layer } of layers(model)) {
    if (layer.attached?.method !== 'autoLora') continue;
    const alpha = atHand((layer.fields[layer.attached.field] as AutoLora).selection); // a seam: a layer does not know its method's types
    if (alpha === null) throw new Error(`ranksOf: the selection of ${path} is a recipe; await realize(model, engine) first`);
    const size = Array.from(alpha, (v) => (by === 'sum' ? v : Math.exp(v)));
    const mean = size.reduce((x, y) => x + y, 0) / size.length;
    found.set(path, size.filter((v) => v >= mean - 1e-12 * Math.abs(mean)).length); // equal ones all stay, however their mean rounds
  }
  if (found.size === 0) throw new Error('ranksOf: no layer of this model has AutoLoRA attached');
  return found;
}

/** A fresh LoRA with these ranks, to be trained on all data. `alpha` is one for all layers, so that s = alpha/r differs between them. */
export const ofRanks = (ranks: ReadonlyMap<string, number>, options: Omit<Options<LoraConfig>, 'rank' | 'where'> = {}): Transform =>
  stack(...[...new Set(ranks.values())].map((rank) => lora({ ...options, rank, where: (path) => ranks.get(path) === rank })));
