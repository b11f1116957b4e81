// LoRA with factors that something else has made: a conversion from a relative, or arithmetic on adapters.
import type { Model } from '../../nn/layer.ts';
import { mapTensors, tensors } from '../../nn/tree.ts';
import { type Factors, type LoraConfig, lora } from './lora.ts';

/**
 * A model with LoRA attached at the given paths, holding the given factors (parameters, or recipes until `realize`) of rank `c.rank`.
 * Throws as LoRA does when they are no linear layers or the rank does not fit.
 */
export function withFactors(model: Model, at: ReadonlyMap<string, Factors>, c: Partial<LoraConfig>): Model {
  const before = new Set([...tensors(model)].map(({ tensor }) => tensor));
  return mapTensors(lora({ ...c, where: (path) => at.has(path) })(model), (t, path) => {
    const [, site, factor] = /^(.*)\.lora\d*\.([AB])$/.exec(path) ?? [];
    return before.has(t) || site === undefined ? t : at.get(site)![factor as 'A' | 'B'];
  });
}
