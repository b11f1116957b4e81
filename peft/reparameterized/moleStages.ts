// MoLE over trained models: the LoRAs of each are its experts.
// Wu, Huang & Wei 2024, arXiv 2404.13628, §3.3: the network and all LoRAs are frozen, and only the gates are trained.
import type { Model } from '../../nn/layer.ts';
import type { Options, Transform } from '../method.ts';
import { loraExperts } from './loraExperts.ts';
import { type MoleConfig, moleOver } from './mole.ts';

/** Gates over the LoRAs of these trained models, frozen, at the places that all of them have. Ranks and scales may differ between models. */
export function mixtureOfLoras(models: readonly Model[], options: Omit<Options<MoleConfig>, 'experts' | 'where'> = {}): Transform {
  const { configs, at } = loraExperts('mixtureOfLoras', models);
  return moleOver(at)({ ...options, experts: configs, where: [...at.keys()] });
}
