// Adapters that Hugging Face PEFT wrote (hf_files.py): here they give its logits, and written again they are the same bytes.
import { test } from 'vitest';
import { expectSame } from './hfFilesRead.ts';

/** One of each way to read; hfFiles.long.test.ts has all of them. */
test.each([
  'lora-gpt2',
  'lora-patterns-llama',
  'lora-bias-all-bert',
  'dora-gpt2',
  'adalora-cut-llama',
  'ia3-gpt2',
  'ln-gpt2',
  'vblora-topk-llama',
  'fourierft-gpt2',
  'shira-llama',
  'prefix-llama',
  'vera-seed-llama',
  'unilora-seed-llama',
  'tinylora-tied-gpt2',
  'gralora-gpt2',
  'supertuning-order-bert',
  'waveft-llama',
  'velora-llama',
  'tokens-gpt2',
  'cartridge-llama',
  'lora-words-gpt2',
  'lora-words-roberta',
  'lora-tokens-head-llama',
  'lora-tokens-embeddings-gpt2',
  'supra-bert',
  'deft-qr-llama',
  'adamss-seed-bert',
])('%s', expectSame);
