// The methods whose files Hugging Face PEFT and this library both know. A list, not a registry: whoever reads may hand over a shorter one.
import { ADALORA } from './adalora.ts';
import { FACTORED } from './factored.ts';
import type { AnyFormat } from './format.ts';
import { LORA } from './lora.ts';
import { PROMPTS } from './prompts.ts';
import { ROTATIONS } from './rotations.ts';
import { SPARSE } from './sparse.ts';
import { VECTORS } from './vectors.ts';

export const PEFT_FORMATS: readonly AnyFormat[] = [...LORA, ADALORA, ...VECTORS, ...FACTORED, ...ROTATIONS, ...SPARSE, ...PROMPTS];
