// LLM-Adapters: the four placements of a comparison on LLaMA, each where it found the method to work best.
//   prefix: keys and values;  series: an adapter after the feed-forward layer;  parallel: one beside it;  lora: attention and feed-forward
// Hu et al. 2023, arXiv 2304.01933, §4.2.
import { nearest } from '../../core/nearest.ts';
import { houlsby } from '../additive/houlsby.ts';
import { parallelAdapter } from '../additive/parallelAdapter.ts';
import { prefixTuning } from '../additive/prefixTuning.ts';
import { hybrid } from '../combine.ts';
import type { Transform } from '../method.ts';
import { lora } from '../reparameterized/lora.ts';
import { orFused } from '../site.ts';

export type Placement = 'prefix' | 'series' | 'parallel' | 'lora';
export interface LlmAdaptersConfig {
  readonly bottleneck: number; // of series and parallel
  readonly rank: number;
  readonly alpha: number;
  readonly dropout: number; // of LoRA
  readonly length: number; // of the prefix, trained as it is
  readonly seed: number;
}

/**
 * Defaults: bottleneck 256 and rank 32 as in the paper's tables, α = 64 as in the authors' commands, dropout 0.05 (their code's rank 8,
 * α 16 are what it does when not told otherwise). The paper trains for 3 epochs at lr 3e-4. Its averages on LLaMA-7B: mathematics 35.0
 * (prefix), 44.6, 46.4, 46.9 (LoRA); commonsense 64.6, 70.8, 72.3, 74.7.
 */
export function llmAdapters(placement: Placement, options: Partial<LlmAdaptersConfig> = {}): Transform {
  const { bottleneck = 256, rank = 32, alpha = 64, dropout = 0.05, length = 10, seed = 0 } = options;
  const placements: Readonly<Record<Placement, () => Transform>> = {
    prefix: () => prefixTuning({ length, bottleneck: null, seed }),
    series: () => houlsby({ bottleneck, init: 'zero', where: 'mlp', seed }),
    parallel: () => parallelAdapter({ bottleneck, scale: 1, where: 'mlp', seed }),
    lora: () => lora({ rank, alpha, dropout, where: orFused(['q', 'k', 'v', 'up', 'down']), seed }),
  };
  if (!Object.hasOwn(placements, placement))
    throw new RangeError(
      `llmAdapters: there is no placement '${placement}'; nearest: ${nearest(placement, Object.keys(placements)).join(', ')}`,
    );
  return hybrid(`llmAdapters ${placement}`, placements[placement]());
}
