// What `tinypeft train` makes of methods and models as they are named, inside this process.
import { copyFile, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { convertCommand } from '../../cli/commands/convert.ts';
import { mergeCommand } from '../../cli/commands/merge.ts';
import { train } from '../../cli/commands/train.ts';
import { rng } from '../../core/rng.ts';
import { saveCheckpoint } from '../../io/checkpoints/save.ts';
import { decoder, gpt2 } from '../../nn/decoder.ts';
import { freeze } from '../../nn/freeze.ts';
import { programs } from '../../peft/lists/programs.ts';
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

test('programs of several stages are no methods of one training: named as that, with their file', async () => {
  const on = ['--model', at('model'), '--data', at('pairs.jsonl'), '--out', at('never')];
  for (const p of programs.filter(({ name }) => name !== 'qlora'))
    await expect(called(train, [...on, '--method', p.name])).rejects.toThrow(
      new RegExp(`${p.name} is a program of several stages .*see ${p.file.replaceAll('.', '\\.')}`),
    );
  await expect(called(train, [...on, '--method', 'lorra'])).rejects.toThrow(/there is no lorra. Nearest: lora.*the first table/);
});

test('arrow trains nothing unless told to: what to do', async () => {
  const on = ['--model', at('model'), '--data', at('pairs.jsonl'), '--steps', '1', '--method', 'arrow', '--json'];
  await expect(called(train, [...on, '--out', at('never')])).rejects.toThrow(/arrow: .*nothing to train. .*arrowOf.*trainExperts=true/);
  const { out } = await called(train, [...on, '--option', 'trainExperts=true', '--format', 'own', '--out', at('arrow')]);
  expect(lastLine(out).trainable).toBeGreaterThan(0);
});

test('what merge and convert wrote, as JSON', async () => {
  const model = ['--model', at('model')];
  await called(train, [...model, '--data', at('pairs.jsonl'), '--steps', '1', '--out', at('a')]);
  const adapter = [...model, '--adapter', at('a/adapter')];
  const merged = await called(mergeCommand, [...adapter, '--out', at('merged'), '--dtype', 'F16', '--json']);
  expect(lastLine(merged.out)).toMatchObject({ out: at('merged'), files: ['model.safetensors'], dtype: 'F16', quantize: 'none' });
  const ours = await called(convertCommand, [...adapter, '--out', at('ours'), '--json']);
  expect(lastLine(ours.out)).toEqual({ out: at('ours'), kind: 'own', files: ['adapter.safetensors', 'adapter.json'], quantize: 'none' });
  const theirs = await called(convertCommand, [...model, '--adapter', at('ours'), '--out', at('theirs'), '--json']);
  const files = ['adapter_config.json', 'adapter_model.safetensors'];
  expect(lastLine(theirs.out)).toEqual({ out: at('theirs'), kind: 'peft', files, quantize: 'none' });
  for (const [command, name] of [
    [mergeCommand, 'merge'],
    [convertCommand, 'convert'],
  ] as const)
    expect((await called((a) => command(a.slice(0, 1)), ['--help'])).out).toMatch(new RegExp(`tinypeft ${name}.*--json`, 's'));
});
