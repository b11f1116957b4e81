// X-LoRA and Arrow that Hugging Face PEFT wrote (hf_experts.py), with their experts: here they give its logits, and written again they are the same bytes.
import { expect, test } from 'vitest';
import { expertsReadAndWritten, recordedExperts } from './hfExperts.ts';

test.each(Object.keys(recordedExperts.logits))('%s', async (title) => {
  expect(await expertsReadAndWritten(title), 'logits').toBeLessThan(1e-7);
});
