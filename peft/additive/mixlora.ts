// MixLoRA: experts in the feed-forward networks, to the best of which a router sends every token, and one plain LoRA on each layer of the attention.
//   y = Σ_{e ∈ top K} ĝ_e(x) FFN_e(x) (mixloraExperts.ts);   attention: W x + b + (α/r)·B A x
// Li et al. 2024, arXiv 2404.15159, §3.
import { hybrid } from '../combine.ts';
import type { Transform } from '../method.ts';
import { lora } from '../reparameterized/lora.ts';
import { orFused, type Where } from '../site.ts';
import type { MixloraConfig } from './mixloraExpert.ts';
import { mixloraExperts } from './mixloraExperts.ts';

/**
 * MixLoRA whole: experts in the feed-forward networks, one plain LoRA on each layer of the attention (`attention`).
 * Count: per block E·Σ r(in + out) over the feed-forward layers, E·d, and r(in + out) at each attention layer.
 */
export const mixlora = ({
  attention = orFused(['q', 'k', 'v', 'o']),
  ...c
}: Partial<MixloraConfig> & { readonly attention?: Where; readonly seed?: number } = {}): Transform => {
  const { rank = 16, alpha = 32, dropout = 0, seed = 0 } = c;
  return hybrid('mixlora', mixloraExperts(c), lora({ rank, alpha, dropout, seed, where: attention }));
};
