// Folders and files that are not what a command needs: what is said names them, and what to do.
import { execFileSync } from 'node:child_process';
import { copyFile, mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { evaluateCommand } from '../../cli/commands/eval.ts';
import { generateCommand } from '../../cli/commands/generate.ts';
import { inspectCommand } from '../../cli/commands/inspect.ts';
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

test('inspect on a pickled adapter: why it is not read, and how to convert it', async () => {
  await mkdir(at('pickled'));
  await writeFile(at('pickled/adapter_model.bin'), 'x');
  await expect(inspectCommand([at('pickled')])).rejects.toThrow(/adapter_model.bin: is a pickle/); // and no configuration
  await rm(at('pickled/adapter_model.bin'));
  await writeFile(at('pickled/adapter_config.json'), JSON.stringify({ peft_type: 'LORA', target_modules: ['q_proj'], r: 2 }));
  await expect(inspectCommand([at('pickled')])).rejects.toThrow(/adapter_model.safetensors: no such file; the folder has a configuration/);
  await writeFile(at('pickled/adapter_model.bin'), 'x');
  await expect(inspectCommand([at('pickled')])).rejects.toThrow(/adapter_model.bin: is a pickle.*save_pretrained/);
});

test('folders and pipes where files are meant: named, and never waited for', async () => {
  const says = (what: string, name: string): RegExp => new RegExp(`${name}: is ${what}, not a file; put the file itself there`);
  for (const name of ['config.json', 'model.safetensors']) {
    await rename(at(`model/${name}`), at('kept'));
    await mkdir(at(`model/${name}`));
    await expect(inspectCommand([at('model')])).rejects.toThrow(says('a folder', `model/${name}`));
    await rm(at(`model/${name}`), { recursive: true });
    execFileSync('mkfifo', [at(`model/${name}`)]);
    await expect(inspectCommand([at('model')])).rejects.toThrow(says('a pipe', `model/${name}`));
    const on = ['--model', at('model'), '--data', at('pairs.jsonl')];
    await expect(called(evaluateCommand, on)).rejects.toThrow(says('a pipe', `model/${name}`));
    await rm(at(`model/${name}`));
    await rename(at('kept'), at(`model/${name}`));
  }
  execFileSync('mkfifo', [at('pipe.gguf'), at('pipe.safetensors'), at('pickled/pipe')]);
  await expect(inspectCommand([at('pipe.gguf')])).rejects.toThrow(says('a pipe', 'pipe.gguf'));
  await expect(inspectCommand([at('pipe.safetensors')])).rejects.toThrow(says('a pipe', 'pipe.safetensors'));
  await expect(called(evaluateCommand, ['--model', at('pipe.gguf'), '--data', at('pairs.jsonl')])).rejects.toThrow(
    says('a pipe', 'pipe.gguf'),
  );
  await rename(at('pickled/pipe'), at('pickled/adapter_config.json'));
  await expect(inspectCommand([at('pickled')])).rejects.toThrow(says('a pipe', 'adapter_config.json'));
});
