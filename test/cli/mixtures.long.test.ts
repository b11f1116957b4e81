// `npx tinypeft` on folders of X-LoRA and Arrow, whose experts are adapters that it trained.
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openCheckpoint } from '../../io/checkpoints/open.ts';
import { loadPeft } from '../../io/peft/load.ts';
import { savePeft } from '../../io/peft/save.ts';
import { arrowOf } from '../../peft/reparameterized/arrowOf.ts';
import { xloraOf } from '../../peft/reparameterized/xloraOf.ts';
import { filesIn } from '../oracle/hfExperts.ts';
import { type Ended, lastLine, tinypeft, workplace } from './tinypeft.ts';

let root = '';
const run = async (...args: string[]): Promise<Ended> => {
  const ended = await tinypeft(root, args);
  if (ended.code !== 0) throw new Error(`tinypeft ${args.join(' ')}: exit ${ended.code}\n${ended.err}`);
  return ended;
};
beforeAll(async () => {
  root = await workplace();
  for (const [out, seed] of [
    ['a', '1'],
    ['b', '2'],
  ] as const)
    await run(
      'train',
      '--model',
      'model',
      '--data',
      'pairs.jsonl',
      '--steps',
      '3',
      '--rows',
      '4',
      '--lr',
      '0.05',
      '--seed',
      seed,
      '--out',
      out,
    );
  const { model } = await openCheckpoint(join(root, 'model'));
  const experts = [];
  for (const name of ['a', 'b']) experts.push((await loadPeft(model, join(root, name, 'adapter'))).model);
  await savePeft(xloraOf(experts)(model), join(root, 'xlora'));
  await savePeft(arrowOf(experts, { topK: 1 })(model), join(root, 'arrow'));
}, 120_000);
afterAll(() => rm(root, { recursive: true }));

test.each(['xlora', 'arrow'])('%s: inspect, eval, generate, convert there and back; merge says why not', async (name) => {
  const shown = await run('inspect', name, '--model', 'model', '--all');
  expect(shown.out).toMatch(name === 'xlora' ? /PEFT, XLORA: here xlora/ : /PEFT, LORA: here arrow/);
  expect(shown.out).toMatch(name === 'xlora' ? /expert 1: LORA of rank 8 in xlora\/1/ : /expert task_1: LORA of rank 8 in arrow\/task_1/);
  expect(shown.out).toMatch(name === 'xlora' ? /trunk \(xlora\)/ : /trunk.blocks.1.attn.v \(arrow\)/);
  const loss = async (...args: string[]) =>
    lastLine((await run('eval', '--model', 'model', '--data', 'pairs.jsonl', ...args, '--json')).out).loss as number;
  const adapted = await loss('--adapter', name);
  expect(adapted).not.toBe(await loss());
  expect(lastLine((await run('generate', '--model', 'model', '--adapter', name, '3 is ', '--tokens', '4', '--json')).out)).toMatchObject({
    prompt: '3 is ',
  });
  await run('convert', '--model', 'model', '--adapter', name, '--out', `${name}-ours`);
  expect(await loss('--adapter', `${name}-ours`)).toBe(adapted);
  await run('convert', '--model', 'model', '--adapter', `${name}-ours`, '--out', `${name}-theirs`);
  expect(await loss('--adapter', `${name}-theirs`)).toBe(adapted);
  const files = await filesIn(join(root, name));
  expect(await filesIn(join(root, `${name}-theirs`))).toEqual(files);
  for (const f of files.filter((one) => one.endsWith('.safetensors')))
    expect(await readFile(join(root, `${name}-theirs`, f)), f).toEqual(await readFile(join(root, name, f)));
  const merged = await tinypeft(root, ['merge', '--model', 'model', '--adapter', name, '--out', 'merged']);
  expect(merged.code).toBe(1);
  expect(merged.err).toMatch(name);
});

test('trained from the command line its experts are random: written as our own, and refused as PEFT’s before any step', async () => {
  const args = ['train', '--model', 'model', '--data', 'pairs.jsonl', '--steps', '2', '--rows', '4', '--method', 'xlora', '--out', 'drawn'];
  const { code, err } = await tinypeft(root, [...args, '--format', 'peft']);
  expect([code, err]).toEqual([2, expect.stringMatching(/has xlora over LoRAs that were trained before/)]);
  expect((await run(...args)).out).toMatch(/drawn\/adapter \(tinypeft\)/);
});
