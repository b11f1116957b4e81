// MAM adapter: a short prefix on attention and a wide scaled parallel adapter on the feed-forward sublayer.
// He et al. 2022, arXiv 2110.04366, §4.6. Nothing is hidden: it is the composition of the two methods.
import { parallelAdapter } from '../additive/parallelAdapter.ts';
import { prefixTuning } from '../additive/prefixTuning.ts';
import { hybrid } from '../combine.ts';
import type { Transform } from '../method.ts';

export interface MamConfig {
  readonly length: number; // p of the prefix
  readonly prefixBottleneck: number | null; // of the prefix's MLP
  readonly bottleneck: number; // m of the adapter
  readonly scale: number | 'learned' | 'channels'; // s of the adapter
  readonly seed: number;
}

/**
 * Defaults are the authors' for summarisation (p = 30, m = 512, s = 4, MLP 800); for GLUE they have p = 16, m = 16, s = 2.
 * Count stored: 2LpHkD + L(2md + m + d).
 */
export const mam = ({ length = 30, prefixBottleneck = 800, bottleneck = 512, scale = 4, seed = 0 }: Partial<MamConfig> = {}): Transform =>
  hybrid('mam', prefixTuning({ length, bottleneck: prefixBottleneck, seed }), parallelAdapter({ bottleneck, scale, seed }));
