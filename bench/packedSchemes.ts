// The ways of packing that are measured, by name.
import { int2, int4 } from '../quant/affine.ts';
import { doubleQuant } from '../quant/doubleQuant.ts';
import { bf16, f16 } from '../quant/half.ts';
import { int8 } from '../quant/int8.ts';
import { fp4, nf4 } from '../quant/nf4.ts';
import type { Scheme } from '../quant/quantize.ts';

/** null: float32, not packed. */
export const schemes: Readonly<Record<string, Scheme | null>> = {
  f32: null,
  f16: f16(),
  bf16: bf16(),
  int8: int8(),
  nf4: nf4(),
  'nf4 double': nf4({ scales: doubleQuant() }),
  fp4: fp4(),
  int4: int4(),
  int2: int2(),
};
