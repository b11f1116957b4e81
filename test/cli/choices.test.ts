// What `tinypeft train` makes of methods and models as they are named, inside this process.
import { copyFile, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { train } from '../../cli/commands/train.ts';
import { rng } from '../../core/rng.ts';
import { saveCheckpoint } from '../../io/checkpoints/save.ts';
import { decoder, gpt2 } from '../../nn/decoder.ts';
import { freeze } from '../../nn/freeze.ts';
import { called, lastLine, SMOLLM, workplace } from './tinypeft.ts';

let root = '';
const at = (name: string): string => join(root, name);
beforeAll(async () => {
  root = await workplace();
});
afterAll(() => rm(root, { recursive: true }));

test('a GPT-2 with defaults: its fused projection, as Hugging Face PEFT has it', async () => {
  const sizes = { vocabulary: 288, width: 32, layers: 2, heads: 2, positions: 64 };
  await saveCheckpoint(freeze(decoder(gpt2({ ...sizes, fusedQkv: true }), rng(0))), at('gpt2'));
  for (const f of ['tokenizer.json', 'tokenizer_config.json']) await copyFile(join(SMOLLM, f), at(`gpt2/${f}`));
  const on = ['--model', at('gpt2'), '--data', at('pairs.jsonl'), '--steps', '1', '--json'];
  for (const [method, names] of [
    ['lora', ['c_attn']],
    ['ia3', ['c_attn', 'mlp.c_proj']],
  ] as const) {
    const { out } = await called(train, [...on, '--method', method, '--out', at(method)]);
    expect(lastLine(out)).toMatchObject({ method, format: 'Hugging Face PEFT' });
    const config = JSON.parse(await readFile(at(`${method}/adapter/adapter_config.json`), 'utf8')) as object;
    expect(config).toMatchObject({ target_modules: names });
  }
  await expect(called(train, [...on, '--option', 'where=q,v', '--out', at('never')])).rejects.toThrow(/where 'q' matches no linear/);
});
