// Folders and files that are not what a command needs: what is said names them, and what to do.
import { copyFile, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { evaluateCommand } from '../../cli/commands/eval.ts';
import { generateCommand } from '../../cli/commands/generate.ts';
import { train } from '../../cli/commands/train.ts';
import { called, SMOLLM, workplace } from './tinypeft.ts';

const GPT2 = fileURLToPath(new URL('../oracle/fixtures/checkpoints/gpt2/', import.meta.url));
let root = '';
const at = (name: string): string => join(root, name);
beforeAll(async () => {
  root = await workplace();
  await mkdir(at('gpt2')); // 40 words, beside a tokenizer of 288
  for (const f of ['config.json', 'model.safetensors']) await copyFile(join(GPT2, f), at(`gpt2/${f}`));
  for (const f of ['tokenizer.json', 'tokenizer_config.json']) await copyFile(join(SMOLLM, f), at(`gpt2/${f}`));
});
afterAll(() => rm(root, { recursive: true }));

test("another model's tokenizer is named as that", async () => {
  const says = /gpt2: its tokenizer and its weights are of different models: ".+" is token \d+, and the model has 40 .*tokenizer.json/;
  const on = ['--model', at('gpt2'), '--data', at('pairs.jsonl')];
  await expect(called(evaluateCommand, on)).rejects.toThrow(says);
  await expect(called(train, [...on, '--out', at('never')])).rejects.toThrow(says);
  await expect(called(generateCommand, ['--model', at('gpt2'), 'once'])).rejects.toThrow(says);
});
