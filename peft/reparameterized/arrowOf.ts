// Arrow over trained models: the LoRAs of each are its experts.
import type { Model } from '../../nn/layer.ts';
import type { Options, Transform } from '../method.ts';
import { type ArrowConfig, arrowOver } from './arrow.ts';
import { genKnowSub } from './genKnowSub.ts';
import { loraExperts } from './loraExperts.ts';

/**
 * Arrow over the LoRAs of these models, all on one network. `general`: models whose LoRAs know what is not a task's own, to be subtracted
 * from each expert (GenKnowSub); all ranks must then be the same.
 */
export function arrowOf(
  models: readonly Model[],
  { general = [], ...options }: Omit<Options<ArrowConfig>, 'experts' | 'where'> & { readonly general?: readonly Model[] } = {},
): Transform {
  const { configs, at } = loraExperts('arrowOf', models);
  const known = general.length === 0 ? at : genKnowSub({ configs, at }, loraExperts('arrowOf, general', general));
  const topK = options.topK ?? Math.min(3, models.length);
  return arrowOver(known)({ ...options, topK, experts: configs, where: [...at.keys()] });
}
