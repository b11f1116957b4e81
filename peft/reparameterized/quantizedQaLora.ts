// QA-LoRA with its base: the frozen weights in int4, by the groups of the adapters, so that merging moves zero points alone.
import { int4 } from '../../quant/affine.ts';
import { inBlocks, type Scheme, type WeightChoice } from '../../quant/quantize.ts';
import { hybrid } from '../combine.ts';
import type { Options, Transform } from '../method.ts';
import { type QaLoraConfig, qaLora } from './qaLora.ts';
import { packing } from './qlora.ts';

export interface QuantizedQaLora extends Omit<Options<QaLoraConfig>, 'where'> {
  /** How weights are packed: int4 by the groups of the adapters. Where it has no groups that fit, merging unpacks. */
  readonly scheme?: Scheme;
  /** Which matrices are packed, and which linear layers get an adapter, by path: all in the blocks. */
  readonly where?: WeightChoice;
}
/** The method with its base: the frozen matrices `where` picks in int4, and QA-LoRA on the linear layers it picks. `merge` keeps the codes. */
export const quantizedQaLora = ({ where = inBlocks, group = 32, scheme = int4({ group }), ...options }: QuantizedQaLora = {}): Transform =>
  hybrid('qaLora', packing(scheme, where), qaLora({ ...options, group, where }));
