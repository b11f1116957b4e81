// The methods whose files Hugging Face PEFT and this library both know. A list, not a registry: whoever reads may hand over a shorter one.
import type { AnyFormat } from './format.ts';
import { LORA } from './lora.ts';

export const PEFT_FORMATS: readonly AnyFormat[] = [...LORA];
