// LQ-LoRA: LoRA that starts as the best low-rank part of a weight, beside what is left in few bits, and each weight with bits of its own.
//   W ≈ Q + s·B A (lqSplit.ts);   y = Q x + b + s·B A drop(x),   Q stored packed
//   how each Q is packed: the schemes with the least total error whose bits, on average over all weights, are within a budget (lqChoice.ts)
// Guo et al. 2023, arXiv 2311.12023. LoftQ packs first and factorises what is lost; here it is the other way round, and data may weigh the error.
import { param } from '../../core/tensor.ts';
import { doubleQuant } from '../../quant/doubleQuant.ts';
import { normalFloat } from '../../quant/normalFloat.ts';
import { inBlocks, type Scheme } from '../../quant/quantize.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import { type Factors, update } from './lora.ts';
import { type Chosen, chosen } from './lqChoice.ts';
import type { SplitConfig } from './lqSplit.ts';
import { checkTaken } from './residual.ts';

export interface LqLoraConfig extends SplitConfig {
  readonly schemes: readonly Scheme[]; // to choose from for each weight
  readonly bits: number | null; // budget for each packed number, on average; null: the least error, whatever it takes
  readonly dataAware: boolean; // F the squared gradients of single examples, summed; else 1
}
/**
 * All linear layers of the blocks; rank 64 and α = 16 as QLoRA's; NF of 2, 4 or 8 bits in blocks of 16, 32 or 64 with scales in eight bits, three
 * bits on average (ours; the paper goes down to 2.5, and its code has more schemes). Needs `prepare(model, { engine })`, and `batches` and
 * `loss` where it is `dataAware`. The old weights stay reachable, for `detach`. Count: r(in + out) for each layer.
 */
export const lqLora = defineMethod<'linear', LqLoraConfig, Factors, null, ReadonlyMap<string, Chosen>>({
  name: 'lqLora',
  family: 'reparameterized',
  paper: 'arXiv:2311.12023',
  at: 'linear',
  defaults: {
    rank: 64,
    alpha: 16,
    rankStabilized: false,
    dropout: 0,
    iterations: 100,
    power: null,
    bits: 3,
    dataAware: false,
    where: inBlocks,
    schemes: ([2, 4, 8] as const).flatMap((bits) => [16, 32, 64].map((block) => normalFloat({ bits, block, scales: doubleQuant() }))),
  },
  takes: { power: [null, Number], bits: [null, Number] },
  check: (site, c) => {
    checkTaken('lqLora')(site, c);
    wholeNumber('lqLora', 'iterations', c.iterations);
    if (c.power !== null) wholeNumber('lqLora', 'power', c.power, 0);
    if (c.schemes.length === 0) throw new RangeError('lqLora: schemes is empty; give at least one way to pack a weight');
  },
  prepare: chosen,
  init: ({ path, shape: [out, into] }, { rank }, _r, { prepared }) => {
    const { a, b, kept, scheme } = prepared.get(path)!;
    return { train: { A: param(a, [rank, into!]), B: param(b, [out!, rank]) }, base: scheme.pack(kept, [out!, into!]) };
  },
  ...update,
  startsAsBase: () => 'no', // the base up to what few bits and r directions leave
});
