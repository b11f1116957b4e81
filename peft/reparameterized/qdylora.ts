// QDyLoRA: DyLoRA beside every linear layer of a network in four bits: one training, and an adapter for every rank of a set.
//   each step b is one of the ranks;   y = x·deq(W)ᵀ + b₀ + (α/b)·B[:, :b] A[:b] x̃
// Rajabzadeh et al. 2024, arXiv 2402.10462, §2: nothing new, `packed` and `dylora`, one after the other. After training `atRank(model, b)` cuts it.
import { inBlocks, type Scheme, type WeightChoice } from '../../quant/quantize.ts';
import { hybrid } from '../combine.ts';
import type { Options, Transform } from '../method.ts';
import { type DyloraConfig, dylora } from './dylora.ts';
import { packed } from './packed.ts';

export interface QdyloraOptions extends Omit<Options<DyloraConfig>, 'where'> {
  /** How weights are packed: NF4 in blocks of 64 with double quantisation. */
  readonly scheme?: Scheme;
  /** Which matrices are packed, and which linear layers get an adapter, by path: all in the blocks. */
  readonly where?: WeightChoice;
}

/**
 * Ranks from 1 to 64 as in the paper. Its set of ranks and its α could not be verified: here the powers of two, and QLoRA's 16. The old
 * weights stay reachable, for `detach`; `dylora({ … })(quantize(model, inBlocks, scheme))` is the same network without them.
 * Count: r(in + out) for each layer, r the largest rank.
 */
export const qdylora = ({
  scheme,
  where = inBlocks,
  rank = 64,
  alpha = 16,
  ranks = Array.from({ length: Math.floor(Math.log2(rank)) + 1 }, (_, k) => 2 ** k),
  ...options
}: QdyloraOptions = {}): Transform =>
  hybrid('qdylora', packed({ ...(scheme && { scheme }), where }), dylora({ rank, alpha, ranks, ...options, where }));
