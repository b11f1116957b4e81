// X-LoRA over trained models: the LoRAs of each are its experts.
import type { Model } from '../../nn/layer.ts';
import type { Options, Transform } from '../method.ts';
import { loraExperts, nothing } from './loraExperts.ts';
import { type XloraConfig, xloraOver } from './xlora.ts';

/** X-LoRA over the LoRAs of these models, all on one network; where a model has none, its expert adds nothing. */
export function xloraOf(models: readonly Model[], options: Omit<Options<XloraConfig>, 'experts' | 'linears' | 'where'> = {}): Transform {
  const { configs, at } = loraExperts('xloraOf', models, nothing);
  const outside = [...at.keys()].find((path) => !path.startsWith('trunk.'));
  if (outside !== undefined)
    throw new Error(`xloraOf: the models have a lora at ${outside}, and the gate scales layers of the trunk alone; train them there`);
  return xloraOver(at)({ ...options, experts: configs, linears: [...at.keys()] });
}
