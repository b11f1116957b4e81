// The hybrid methods, each with a small configuration for small networks.

import { nf4 } from '../../quant/nf4.ts';
import { autopeft } from '../hybrid/autopeft.ts';
import { llmAdapters } from '../hybrid/llmAdapters.ts';
import { longlora } from '../hybrid/longlora.ts';
import { longQlora } from '../hybrid/longQlora.ts';
import { mam } from '../hybrid/mam.ts';
import { noah } from '../hybrid/noah.ts';
import { s4 } from '../hybrid/s4.ts';
import { supra } from '../hybrid/supra.ts';
import { unipelt } from '../hybrid/unipelt.ts';
import { composition, type Listed, listed } from '../listed.ts';

export const hybrid: readonly Listed[] = [
  listed('peft/hybrid/unipelt.ts', unipelt, { rank: 2, length: 2, prefixBottleneck: 3, bottleneck: 3, activation: 'silu' }),
  composition(
    { name: 'mam', family: 'hybrid', paper: 'arXiv:2110.04366', file: 'peft/hybrid/mam.ts' },
    (seed) => mam({ seed }),
    (seed) => mam({ length: 2, prefixBottleneck: 3, bottleneck: 3, scale: 2, seed }),
  ),
  composition(
    { name: 'longlora', family: 'hybrid', paper: 'arXiv:2309.12307', file: 'peft/hybrid/longlora.ts' },
    (seed) => longlora({ seed }),
    (seed) => longlora({ rank: 2, alpha: 3, seed }),
    { gpt2: 'its positions are not rotary', bert: 'its positions are not rotary' },
  ),
  composition(
    { name: 's4', family: 'hybrid', paper: 'arXiv:2301.01821', file: 'peft/hybrid/s4.ts' },
    (seed) =>
      s4(
        [
          { blocks: [0], adapter: 8, lora: 4, prefix: 0, bitfit: false },
          { blocks: [1], adapter: 8, lora: 0, prefix: 4, bitfit: true },
        ],
        seed,
      ),
    (seed) =>
      s4(
        [
          { blocks: [0], adapter: 2, lora: 1, prefix: 0, bitfit: false },
          { blocks: [1], adapter: 0, lora: 2, prefix: 2, bitfit: false },
        ],
        seed,
      ),
  ),
  composition(
    { name: 'autopeft', family: 'hybrid', paper: 'arXiv:2301.12132', file: 'peft/hybrid/autopeft.ts' },
    (seed) => autopeft({ serial: 8, parallel: 8, prefix: 4, layers: [true, true] }, { seed }),
    (seed) => autopeft({ serial: 2, parallel: 2, prefix: 1, layers: [false, true] }, { seed, activation: 'silu' }),
  ),
  composition(
    { name: 'noah', family: 'hybrid', paper: 'arXiv:2206.04673', file: 'peft/hybrid/noah.ts' },
    (seed) => noah({ prompt: [5, 0], lora: [5, 5], adapter: [5, 10] }, { seed }),
    (seed) => noah({ prompt: [2, 0], lora: [1, 2], adapter: [0, 3] }, { seed, activation: 'silu' }),
  ),
  composition(
    { name: 'llmAdapters', family: 'hybrid', paper: 'arXiv:2304.01933', file: 'peft/hybrid/llmAdapters.ts' },
    (seed) => llmAdapters('series', { seed }),
    (seed) => llmAdapters('series', { bottleneck: 3, seed }),
  ),
  composition(
    { name: 'longQlora', family: 'hybrid', paper: 'arXiv:2311.04879', file: 'peft/hybrid/longQlora.ts' },
    (seed) => longQlora({ seed }),
    (seed) => longQlora({ rank: 2, alpha: 3, dropout: 0.25, scheme: nf4({ block: 8 }), seed }),
    { gpt2: 'its positions are not rotary', bert: 'its positions are not rotary' },
  ),
  composition(
    { name: 'supra', family: 'hybrid', paper: 'arXiv:2607.09287', file: 'peft/hybrid/supra.ts' },
    (seed) => supra({ seed }),
    (seed) => supra({ sparsity: 0.8, rank: 2, dropout: 0.25, seed }),
  ),
];
