// `npx tinypeft` in child processes: one training from a configuration file and flags, what reads its result, and how wrong calls end.
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readTrainCall, type TrainCall } from '../../cli/commands/config.ts';
import { qloraRecipe } from '../../peft/reparameterized/qloraRecipe.ts';
import { lastLine, tinypeft, workplace } from './tinypeft.ts';

let root = '';
beforeAll(async () => {
  root = await workplace();
});
afterAll(() => rm(root, { recursive: true }));

describe.concurrent('tinypeft', () => {
  test('train from a file with flags over it, then eval: exit 0, files, JSON', async () => {
    const file = { model: 'model', data: 'pairs.jsonl', method: 'vera', steps: 9, rows: 4, lr: 0.01, out: 'a', options: { rank: 2 } };
    await writeFile(join(root, 'train.json'), JSON.stringify(file));
    const flags = ['--method', 'lora', '--steps', '3', '--option', 'where=q,o'];
    const { code, out, err } = await tinypeft(root, ['train', '--config', 'train.json', ...flags, '--json']);
    expect(err).toMatch(/data {5}11 sequences to train on \(\d+ tokens\), 1 kept aside/);
    expect(err).toMatch(/lora 3\/3 +loss \d/);
    expect(code).toBe(0);
    const result = lastLine(out);
    // rank 2 on q [32, 32] and o [32, 32] of two layers
    expect(result).toMatchObject({ method: 'lora', steps: 3, trainable: 4 * 2 * 64, adapter: 'a/adapter', format: 'Hugging Face PEFT' });
    const config = JSON.parse(await readFile(join(root, 'a/adapter/adapter_config.json'), 'utf8')) as object;
    expect(config).toMatchObject({ peft_type: 'LORA', r: 2, target_modules: ['o_proj', 'q_proj'], base_model_name_or_path: 'model' });
    expect(await readFile(join(root, 'a/curve.svg'), 'utf8')).toContain('<svg');

    const measured = await tinypeft(root, ['eval', '--model', 'model', '--data', 'pairs.jsonl', '--adapter', 'a/adapter', '--json']);
    expect(measured.code).toBe(0);
    const { loss, perplexity } = lastLine(measured.out) as { loss: number; perplexity: number };
    expect(perplexity).toBeCloseTo(Math.exp(loss), 8);
    expect(loss).toBeGreaterThan(4);
  });

  test('a command that does not exist: exit 2, the nearest, and all there are', async () => {
    const { code, out, err } = await tinypeft(root, ['trian']);
    expect([code, out]).toEqual([2, '']);
    expect(err).toMatch(/there is no command trian. Nearest: train/);
    expect(err).toMatch(/inspect {4}what is in a checkpoint/);
  });

  test('nobody reads its output: it ends, and says nothing', async () => {
    const { code, err } = await tinypeft(root, ['train', '--schema'], () => {}, { unread: true });
    expect([code, err]).toEqual([0, '']);
  });

  test('bad data: exit 1 and every line', async () => {
    await writeFile(join(root, 'bad.jsonl'), '{"prompt":"a","completion":"b"}\nnope\n{"prompt":"a"}\n');
    const { code, err } = await tinypeft(root, ['train', '--model', 'model', '--data', 'bad.jsonl', '--out', 'never']);
    expect(code).toBe(1);
    expect(err).toMatch(/bad.jsonl: 2 lines are no record\n {2}line 2: is not JSON\n {2}line 3: has a prompt but no completion/);
  });
});

test('docs/tinypeft.schema.json is what train --schema prints', async () => {
  const text = await readTrainCall(['--schema']);
  expect(await readFile(new URL('../../docs/tinypeft.schema.json', import.meta.url), 'utf8')).toBe(`${text as string}\n`);
});

describe('the configuration of a training', () => {
  const given = ['--model', 'm', '--data', 'd.jsonl'];
  const call = async (...more: string[]): Promise<TrainCall> => {
    const answer = await readTrainCall([...given, ...more]);
    if (typeof answer === 'string') throw new Error(answer);
    return answer;
  };

  test('defaults; numbers, lists and words of flags; a file that is called 7', async () => {
    expect((await call()).config).toMatchObject({ method: 'lora', options: {}, lr: 2e-4, steps: null, quantize: 'none', out: 'out/train' });
    const own = ['--option', 'rank=4', '--option', 'where=q,v', '--option', 'rankStabilized=true', '--option', 'init=kaiming'];
    const { config, resume, json } = await call('--lr', '1e-3', '--data', '7', '--clip', 'null', ...own, '--resume', '--json');
    expect(config).toMatchObject({ lr: 0.001, data: '7', clip: null });
    expect(config.options).toEqual({ rank: 4, where: ['q', 'v'], rankStabilized: true, init: 'kaiming' });
    expect([resume, json]).toEqual([true, true]);
  });

  test('qlora trains as its paper does, unless told otherwise', async () => {
    const { optimizer, schedule } = qloraRecipe({ spill: () => Promise.reject(new Error('no page is written here')) });
    const { config } = await call('--method', 'qlora');
    expect(config).toMatchObject({ optimizer: 'paged', budget: 16, clip: 0.3, schedule: 'constant', warmup: 0, lr: 2e-4, weightDecay: 0 });
    expect(optimizer.config).toMatchObject({ lr: config.lr, weightDecay: config.weightDecay });
    expect(schedule({ step: 9, total: 10 })).toBe(1);
    const own = ['--optimizer', 'adamw', '--clip', 'null', '--schedule', 'linear'];
    expect((await call('--method', 'qlora', ...own)).config).toMatchObject({
      optimizer: 'adamw',
      clip: null,
      schedule: 'linear',
      warmup: 0,
    });
    expect((await call()).config).toMatchObject({ optimizer: 'adamw', clip: 1, schedule: 'linear', weightDecay: 0.01 });
  });

  const wrong: readonly (readonly [args: readonly string[], says: RegExp])[] = [
    [['--modle', 'x'], /there is no --modle. Nearest: .*--model.*\nAll flags: tinypeft train --help/],
    [['--rows', '0'], /rows: Too small/],
    [['--rows', 'many'], /rows: Invalid input/],
    [['--rows', '007'], /rows: Invalid input/],
    [['--budget', '0.5'], /budget: Invalid input/],
    [['--engine', 'cuda'], /engine: Invalid option.*simd/],
    [['--option', 'rank'], /--option rank: must be name=value/],
    [['--option', '__proto__=1'], /no method has such an option/],
    [['--config', 'no/such.json'], /--config no\/such.json: no such file/],
    [['surplus'], /train: .*surplus/],
  ];
  for (const [args, says] of wrong) test(args.join(' '), () => expect(call(...args)).rejects.toThrow(says));

  const files: readonly (readonly [content: string, says: RegExp])[] = [
    ['{', /--config .*: /],
    ['[]', /must be an object/],
    ['{"__proto__": {"polluted": 1}}', /must be an object without the keys __proto__/],
    ['{"modle": "x"}', /there is no modle. Nearest: .*model/],
    ['{"options": "rank=4"}', /options: Invalid input/],
    ['{"lr": "fast"}', /lr: Invalid input/],
  ];
  for (const [content, says] of files)
    test(content, async () => {
      const path = join(root, 'config.json');
      await writeFile(path, content);
      await expect(call('--config', path)).rejects.toThrow(says);
      expect(({} as { polluted?: number }).polluted).toBeUndefined();
    });

  test('nothing at all: what is missing, and what it would be', () =>
    expect(readTrainCall([])).rejects.toThrow(/model: is missing: a folder with config.json.*\n {2}data: is missing: .jsonl/));
});
