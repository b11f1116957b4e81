// QLoRA: LoRA beside every linear layer of a network whose matrices are kept in four bits.
//   y = x·deq(W)ᵀ + b + s·B A x,   deq(W) = code[q]·ĉ,   ĉ = μ + d·map[q₈];   gradients flow through deq(W) to x, never to W
// Dettmers et al. 2023, arXiv 2305.14314, §3. Nothing new: `quantize` and `lora`, one after the other.
import { doubleQuant } from '../../quant/doubleQuant.ts';
import { nf4 } from '../../quant/nf4.ts';
import { inBlocks, quantize, type Scheme, type WeightChoice } from '../../quant/quantize.ts';
import { hybrid } from '../combine.ts';
import type { Options, Transform } from '../method.ts';
import { type LoraConfig, lora } from './lora.ts';

export interface QloraOptions extends Omit<Options<LoraConfig>, 'where'> {
  /** How weights are packed: NF4 in blocks of 64 with double quantisation. */
  readonly scheme?: Scheme;
  /** Which matrices are packed, and which linear layers get LoRA, by path: all in the blocks. */
  readonly where?: WeightChoice;
}

/**
 * Packs the frozen matrices `where` picks and attaches LoRA to the linear layers it picks; rank 64 and alpha 16 as the authors have it.
 * Takes a frozen model of plain numbers. Merging gives an unpacked network: quantising it again would lose the adapters' precision.
 */
export function qlora({
  scheme = nf4({ scales: doubleQuant() }),
  where = inBlocks,
  rank = 64,
  alpha = 16,
  ...options
}: QloraOptions = {}): Transform {
  const adapters = lora({ rank, alpha, ...options, where });
  const packing: Transform = Object.assign(<T extends Parameters<Transform>[0]>(model: T): T => quantize(model, where, scheme), {
    title: scheme.name,
    parts: [],
    prepare: async (): Promise<Transform> => packing,
  });
  return hybrid('qlora', packing, adapters);
}
