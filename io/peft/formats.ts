// The methods whose files Hugging Face PEFT and this library both know. A list, not a registry: whoever reads may hand over a shorter one.
import { ADALORA } from './adalora.ts';
import { ADAMSS } from './adamss.ts';
import { ARROW } from './arrow.ts';
import { BLOCKS } from './blocks.ts';
import { FACTORED } from './factored.ts';
import type { AnyFormat } from './format.ts';
import { FROD } from './frod.ts';
import { LORA } from './lora.ts';
import { LORA_LIKE } from './loraLike.ts';
import { LORA_VARIANTS } from './loraVariants.ts';
import { ON_WEIGHTS } from './onWeights.ts';
import { PROJECTIONS } from './projections.ts';
import { PROMPTS } from './prompts.ts';
import { ROTATIONS } from './rotations.ts';
import { SPARSE } from './sparse.ts';
import { VECTORS } from './vectors.ts';
import { XLORA } from './xlora.ts';

export const PEFT_FORMATS: readonly AnyFormat[] = [
  ARROW,
  ...LORA_VARIANTS,
  ...LORA,
  ...LORA_LIKE,
  ADALORA,
  ...VECTORS,
  ...ON_WEIGHTS,
  ...PROJECTIONS,
  ...FACTORED,
  ...BLOCKS,
  FROD,
  ADAMSS,
  ...ROTATIONS,
  ...SPARSE,
  ...PROMPTS,
  XLORA,
];
