// QLoRA: LoRA beside every linear layer of a network whose matrices are kept in four bits; and the same with DoRA and with PiSSA.
//   y = x·deq(W)ᵀ + b + s·B A x,   deq(W) = code[q]·ĉ,   ĉ = μ + d·map[q₈];   gradients flow through deq(W) to x, never to W
// Dettmers et al. 2023, arXiv 2305.14314, §3. Nothing new: `quantize` and `lora`, one after the other.
import { doubleQuant } from '../../quant/doubleQuant.ts';
import { nf4 } from '../../quant/nf4.ts';
import { inBlocks, quantize, type Scheme, type WeightChoice } from '../../quant/quantize.ts';
import { hybrid } from '../combine.ts';
import type { Options, Transform } from '../method.ts';
import { dora } from './dora.ts';
import { type LoraConfig, lora } from './lora.ts';
import { type PissaConfig, pissa } from './pissa.ts';

interface Packed {
  /** How weights are packed: NF4 in blocks of 64 with double quantisation. */
  readonly scheme?: Scheme;
  /** Which matrices are packed, and which linear layers get LoRA, by path: all in the blocks. */
  readonly where?: WeightChoice;
}
export type QloraOptions = Omit<Options<LoraConfig>, 'where'> & Packed;
export type QpissaOptions = Omit<Options<PissaConfig>, 'where'> & Packed;

/** `quantize` as a part of a composition: it brings no method. */
export function packing(scheme: Scheme, where: WeightChoice): Transform {
  const own: Transform = Object.assign(<T extends Parameters<Transform>[0]>(model: T): T => quantize(model, where, scheme), {
    title: scheme.name,
    parts: [],
    prepare: async (): Promise<Transform> => own,
  });
  return own;
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
  return hybrid('qlora', packing(scheme, where), lora({ rank, alpha, ...options, where }));
}

/**
 * The same with DoRA: its lengths start as those of the unpacked weights, so it has to be prepared, `await qdora().prepare(model, { engine })`.
 * Rank and alpha are DoRA's own (8) unless given.
 */
export const qdora = ({ scheme = nf4({ scales: doubleQuant() }), where = inBlocks, ...options }: QloraOptions = {}): Transform =>
  hybrid('qdora', packing(scheme, where), dora({ ...options, where }));

/**
 * QPiSSA: PiSSA's residual is what is packed, so that less is lost: the largest directions stay in full precision (Meng et al. 2024,
 * arXiv 2404.02948, §4; one turn, as Hugging Face PEFT has it). The old weights stay reachable, for `detach`.
 */
export const qpissa = ({ scheme = nf4({ scales: doubleQuant() }), where = inBlocks, ...options }: QpissaOptions = {}): Transform =>
  hybrid('qpissa', pissa({ ...options, where }), packing(scheme, where));
