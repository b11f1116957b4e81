// S4: a design found by searching design spaces. Layers in four groups, more in the middle; each group its own mixture of methods; equal
// numbers of parameters for every layer.
//   G₁ {adapter, LoRA}   G₂ {adapter, prefix}   G₃ {adapter, prefix, BitFit}   G₄ {prefix, BitFit, LoRA}
// Chen et al. 2023, arXiv 2301.01821, §5.
import { pfeiffer } from '../additive/pfeiffer.ts';
import { prefixTuning } from '../additive/prefixTuning.ts';
import { hybrid } from '../combine.ts';
import type { Transform } from '../method.ts';
import { lora } from '../reparameterized/lora.ts';
import { bitfit } from '../selective/bitfit.ts';

export const STRATEGIES = ['adapter', 'lora', 'prefix', 'bitfit'] as const;

export type Strategy = (typeof STRATEGIES)[number];

/** One group: its blocks, and the size of each method on each of them (0: it is not there). */
export interface S4Group {
  readonly blocks: readonly number[];
  readonly adapter: number; // bottleneck m
  readonly lora: number; // rank, on q and v (where they are one layer, on that), with α = rank
  readonly prefix: number; // length p
  readonly bitfit: boolean;
}

/** The composition. A prefix of one group moves the positions of the whole text, as every prefix does. */
export function s4(groups: readonly S4Group[], seed = 0): Transform {
  const at = (blocks: readonly number[], rest: string): RegExp => new RegExp(`blocks\\.(${blocks.join('|')})\\.${rest}$`);
  return hybrid(
    's4',
    ...groups.flatMap(({ blocks, ...g }, k) => [
      ...(g.bitfit ? [bitfit({ where: at(blocks, '.*bias') })] : []),
      ...(g.lora > 0 ? [lora({ rank: g.lora, alpha: g.lora, where: at(blocks, 'attn\\.(q|v|qkv)'), seed: seed + k })] : []),
      ...(g.adapter > 0 ? [pfeiffer({ bottleneck: g.adapter, where: at(blocks, 'mlp'), seed: seed + k })] : []),
      ...(g.prefix > 0 ? [prefixTuning({ length: g.prefix, bottleneck: null, attend: at(blocks, 'attn\\.attend'), seed: seed + k })] : []),
    ]),
  );
}
