// Every command of `npx tinypeft` on every kind of data, in child processes; interrupted and killed trainings that end as if nothing had happened.
import { execFile } from 'node:child_process';
import { access, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { rng } from '../../core/rng.ts';
import { readState } from '../../io/state.ts';
import { writeTinyBert } from '../io/tinyBert.ts';
import { type Ended, lastLine, tinypeft, workplace } from './tinypeft.ts';

let root = '';
beforeAll(async () => {
  root = await workplace();
  await mkdir(join(root, 'encoder'));
  await writeTinyBert(join(root, 'encoder'));
});
afterAll(() => rm(root, { recursive: true }));
const run = async (...args: string[]): Promise<Ended> => {
  const ended = await tinypeft(root, args);
  if (ended.code !== 0) throw new Error(`tinypeft ${args.join(' ')}: exit ${ended.code}\n${ended.err}`);
  return ended;
};
const refused = async (code: number, ...args: string[]): Promise<string> => {
  const ended = await tinypeft(root, args);
  expect(ended.code, ended.err).toBe(code);
  return ended.err;
};
const loss = async (...args: string[]): Promise<number> => lastLine((await run('eval', ...args, '--json')).out).loss as number;
const adapterBytes = (out: string): Promise<Buffer> => readFile(join(root, out, 'adapter', 'adapter_model.safetensors'));
const train = (...args: string[]): Promise<Ended> => run('train', '--steps', '3', '--rows', '4', '--lr', '0.01', ...args);

test.for(['train', 'eval', 'generate', 'merge', 'convert', 'inspect', 'methods'])('%s --help', async (name) => {
  const { out } = await run(name, '--help');
  expect(out).toContain('--help');
});
test('without a command, and with --help: all commands', async () => {
  const [nothing, help] = [await run(), await run('--help')];
  expect(nothing.out).toBe(help.out);
  expect(help.out).toMatch(/Exit codes: 0 done, 1 an error, 2 a wrong command line or configuration, 130 interrupted/);
});

test('docs/command-line.md: its commands run in this order and print what stands under them, but for numbers', async () => {
  const at = await mkdtemp(join(tmpdir(), 'tinypeft-docs-'));
  const repository = fileURLToPath(new URL('../..', import.meta.url));
  await symlink(join(repository, 'test'), join(at, 'test'));
  const page = await readFile(join(repository, 'docs/command-line.md'), 'utf8');
  const examples = [...page.matchAll(/```sh\n(.*?)\n```(?:\n\n```text\n(.*?)\n```)?/gs)];
  expect(examples.length).toBe(8);
  const plain = (text: string): string =>
    text
      .replace(/[\d.,]+/g, '#')
      .replace(/─+/g, '─')
      .replace(/ +/g, ' ')
      .trim();
  for (const [, command, said = ''] of examples) {
    const program = `'${process.execPath}' '${join(repository, 'cli/tinypeft.mjs')}'`;
    const { stdout } = await promisify(execFile)('sh', ['-c', command!.replace('npx tinypeft', program)], { cwd: at });
    expect(plain(stdout), command).toBe(plain(said));
  }
  await rm(at, { recursive: true });
});

describe('a language model', () => {
  test('train, merge, convert: the same loss as an adapter of PEFT, one of ours, and a checkpoint', async () => {
    await train('--model', 'model', '--data', 'pairs.jsonl', '--out', 'a');
    const on = ['--data', 'pairs.jsonl'];
    const adapted = await loss('--model', 'model', ...on, '--adapter', 'a/adapter');
    expect(adapted).toBeLessThan(await loss('--model', 'model', ...on));
    expect((await run('merge', '--model', 'model', '--adapter', 'a/adapter', '--out', 'merged')).out).toMatch(
      /wrote merged: model.safetensors/,
    );
    expect(await loss('--model', 'merged', ...on)).toBeCloseTo(adapted, 4);
    await run('convert', '--model', 'model', '--adapter', 'a/adapter', '--out', 'ours');
    expect(await loss('--model', 'model', ...on, '--adapter', 'ours')).toBe(adapted);
    await run('convert', '--model', 'model', '--adapter', 'ours', '--out', 'theirs');
    expect(await readFile(join(root, 'theirs/adapter_model.safetensors'))).toEqual(await adapterBytes('a'));
    const { out } = await run('generate', '--model', 'model', '--adapter', 'a/adapter', '3 is ', '--tokens', '4', '--json');
    expect(lastLine(out)).toMatchObject({ prompt: '3 is ' });
    expect((await run('generate', '--model', 'model', '3 is ', '--tokens', '500')).err).toMatch(/at most \d+ new tokens/);
  });

  test('inspect: what is there, in which types, and where it attaches', async () => {
    const checkpoint = await run('inspect', 'model');
    expect(checkpoint.out).toMatch(/checkpoint, llama with a language head/);
    expect(checkpoint.out).toMatch(/20 tensors, 23,200 numbers \(46.4 kB as BF16\)/);
    const adapter = await run('inspect', 'a/adapter', '--model', 'model', '--json');
    expect(JSON.parse(adapter.out)).toMatchObject({
      what: expect.stringContaining('LORA: here lora'),
      sites: expect.arrayContaining(['trunk.blocks.1.attn.v (lora)']),
    });
    expect((await run('inspect', 'ours')).out).toMatch(/adapter of tinypeft\n {2}1: lora/);
    expect((await run('inspect', 'a/adapter/adapter_model.safetensors', '--all')).out).not.toContain('more (--all)');
  });

  test('prose longer than the positions, and one text that leaves nothing to measure', async () => {
    expect((await train('--model', 'model', '--data', 'prose.txt', '--longest', '4000', '--out', 'prose')).err).toMatch(/kept aside/);
    await writeFile(join(root, 'one.jsonl'), '{"prompt":"a","completion":"b"}\n');
    const { err, out } = await train('--model', 'model', '--data', 'one.jsonl', '--out', 'one');
    expect(err).toMatch(/1 sequence to train on .*none kept aside, so nothing is measured/);
    expect(out).toMatch(/–/);
  });

  test('conversations by the template; without one, what to do', async () => {
    await train('--model', 'chatty', '--data', 'chat.jsonl', '--out', 'chat');
    const { out } = await run(
      'generate',
      '--model',
      'chatty',
      '--adapter',
      'chat/adapter',
      '--chat',
      '--system',
      'be short',
      'say 3',
      '--tokens',
      '3',
      '--json',
    );
    expect(lastLine(out)).toMatchObject({ prompt: 'say 3' });
    expect(await refused(1, 'train', '--model', 'model', '--data', 'chat.jsonl', '--out', 'b')).toMatch(/no chat template.*"prompt"/);
    expect(await refused(2, 'generate', '--model', 'model', '--chat', 'hi')).toMatch(/has no chat template; leave --chat out/);
  });

  test('packed: qlora, and lora on any packing; eval packs likewise', async () => {
    await train('--model', 'model', '--data', 'pairs.jsonl', '--method', 'qlora', '--option', 'rank=4', '--out', 'q');
    await train(
      '--model',
      'model',
      '--data',
      'pairs.jsonl',
      '--quantize',
      'nf4',
      '--optimizer',
      'adamw8bit',
      '--accumulate',
      '2',
      '--out',
      'nf4',
    );
    const on = ['--model', 'model', '--data', 'pairs.jsonl', '--adapter', 'q/adapter'];
    expect(await loss(...on, '--quantize', 'nf4-double')).toBe(await loss(...on)); // it is what the adapter says itself
    expect(await loss(...on, '--quantize', 'none')).not.toBe(await loss(...on));
    expect(await refused(2, 'train', '--model', 'model', '--data', 'pairs.jsonl', '--method', 'qlora', '--option', 'where=q')).toMatch(
      /--quantize nf4-double/,
    );
  });

  test('states in pages: the adapter of the optimizer without them, byte for byte, and no page is left', async () => {
    const on = ['--model', 'model', '--data', 'pairs.jsonl', '--method', 'qlora', '--option', 'rank=4'];
    for (const [plain, pages] of [
      ['adamw', 'paged'],
      ['adamw8bit', 'paged8bit'],
    ] as const) {
      await train(...on, '--optimizer', plain, '--out', plain);
      await train(...on, ...(pages === 'paged' ? [] : ['--optimizer', pages]), '--budget', '1', '--out', pages);
      expect(await adapterBytes(pages)).toEqual(await adapterBytes(plain));
      expect((await readdir(join(root, pages))).sort()).toEqual(['adapter', 'curve.svg', 'train.json']);
    }
  });

  test('full fine-tuning: ours, and a checkpoint by merge', async () => {
    const { err } = await train('--model', 'model', '--data', 'pairs.jsonl', '--method', 'full', '--out', 'full');
    expect(err).toMatch(/full: 23,200 trainable numbers/);
    await run('merge', '--model', 'model', '--adapter', 'full/adapter', '--out', 'fulled', '--dtype', 'F32');
    const on = ['--data', 'pairs.jsonl'];
    // the checkpoint is float32, and the engine of these tests computes in float64
    expect(await loss('--model', 'fulled', ...on)).toBeCloseTo(await loss('--model', 'model', ...on, '--adapter', 'full/adapter'), 6);
    expect(await refused(2, 'train', '--model', 'model', ...on, '--method', 'full', '--quantize', 'int8')).toMatch(
      /packed weights cannot be trained/,
    );
  });

  test('a method that Hugging Face PEFT lacks is written as ours; asked for as theirs, refused before it is trained', async () => {
    const { err } = await train('--model', 'model', '--data', 'pairs.jsonl', '--method', 'adapterPlus', '--out', 'bias');
    expect(err).toMatch(/written as tinypeft's own/);
    expect(await refused(2, 'train', '--model', 'model', '--data', 'pairs.jsonl', '--method', 'adapterPlus', '--format', 'peft')).toMatch(
      /has no file for/,
    );
  });

  test('another training in the same folder replaces the adapter', async () => {
    await train('--model', 'model', '--data', 'pairs.jsonl', '--out', 'again', '--option', 'rank=2');
    await train('--model', 'model', '--data', 'pairs.jsonl', '--out', 'again', '--option', 'rank=4', '--format', 'own');
    expect((await readdir(join(root, 'again/adapter'))).sort()).toEqual(['adapter.json', 'adapter.safetensors']);
    expect((await readdir(join(root, 'again'))).sort()).toEqual(['adapter', 'curve.svg', 'train.json']);
  });

  test('wrong places: a file as folder, a folder that is no adapter, nothing there', async () => {
    const on = ['--model', 'model', '--data', 'pairs.jsonl'];
    expect(await refused(2, 'train', ...on, '--out', 'prose.txt')).toMatch(/is a file; name a folder/);
    expect(await refused(2, 'train', ...on, '--out', 'prose.txt/deep')).toMatch(/is a file; name a folder/);
    expect(await refused(2, 'eval', ...on, '--adapter', 'model')).toMatch(/is no adapter/);
    expect(await refused(2, 'inspect', 'nowhere')).toMatch(/no such file or folder/);
    expect(await refused(1, 'eval', '--model', './nowhere', '--data', 'pairs.jsonl')).toMatch(/no such folder/);
    expect(await refused(2, 'train', ...on, '--resume', '--out', 'never')).toMatch(/no interrupted run in never/);
  });
});

describe.each(['encoder', 'model'])('classes, %s', (model) => {
  test('train, eval, merge: labels keep their order, and the merged model has their names', async () => {
    const out = `classes-${model}`;
    await train('--model', model, '--data', 'labels.csv', '--steps', '12', '--out', out);
    expect(JSON.parse(await readFile(join(root, out, 'adapter/labels.json'), 'utf8'))).toEqual(['no', 'yes']);
    const { out: said } = await run('eval', '--model', model, '--data', 'labels.csv', '--adapter', `${out}/adapter`, '--json');
    expect(lastLine(said).accuracy).toBeGreaterThanOrEqual(0.5);
    await run('merge', '--model', model, '--adapter', `${out}/adapter`, '--out', `merged-${model}`);
    expect(JSON.parse(await readFile(join(root, `merged-${model}`, 'config.json'), 'utf8'))).toMatchObject({
      id2label: { 0: 'no', 1: 'yes' },
    });
    await run('convert', '--model', model, '--adapter', `${out}/adapter`, '--out', `ours-${model}`);
    const ours = await run('eval', '--model', model, '--data', 'labels.csv', '--adapter', `ours-${model}`, '--json');
    expect(lastLine(ours.out).accuracy).toBe(lastLine(said).accuracy);
    await writeFile(join(root, 'strange.csv'), 'text,label\na,maybe\nb,no\n');
    expect(await refused(2, 'eval', '--model', model, '--data', 'strange.csv', '--adapter', `${out}/adapter`)).toMatch(
      /knows no, yes, not maybe/,
    );
    const merged = await run('eval', '--model', `merged-${model}`, '--data', 'labels.csv', '--json');
    expect(lastLine(merged.out).accuracy).toBe(lastLine(said).accuracy);
    expect(await refused(2, 'eval', '--model', model, '--data', 'labels.csv')).toMatch(/is no classifier.*name the --adapter/);
    expect(await refused(2, 'generate', '--model', `merged-${model}`, 'hi')).toMatch(/is a classifier \(no, yes\)|writes no text/);
    expect(await refused(2, 'train', '--model', model, '--data', 'labels.csv', '--eval-data', 'prose.txt')).toMatch(
      /one has labels and the other has none/,
    );
  });
});

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );
describe('stopped', () => {
  const flags = ['train', '--model', 'model', '--data', 'pairs.jsonl', '--rows', '2', '--lr', '0.01', '--option', 'dropout=0.1'];
  const whole = async (steps: number): Promise<Buffer> => {
    await run(...flags, '--steps', String(steps), '--out', `whole-${steps}`);
    return adapterBytes(`whole-${steps}`);
  };

  test('by Ctrl-C: exit 130, the way on; resumed, the same bytes as never stopped', async () => {
    const expected = await whole(200);
    const mine = [...flags, '--steps', '200', '--out', 'stopped'];
    const sent = { yet: false };
    const first = await tinypeft(root, mine, (err, child) => {
      if (sent.yet || !/lora 1\/200/.test(err)) return;
      sent.yet = true;
      child.kill('SIGINT');
    });
    expect(first.code, first.err).toBe(130);
    const again = /To go on: tinypeft (.*)/.exec(first.err)![1]!;
    expect(again).toBe([...mine, '--resume'].join(' '));
    expect(await refused(2, ...mine)).toMatch(/holds an interrupted run; --resume goes on with it/);
    expect(await refused(2, ...mine, '--resume', '--lr', '0.02')).toMatch(/the interrupted run had lr 0.01/);
    await run(...again.split(' '));
    expect(await adapterBytes('stopped')).toEqual(expected);
    expect((await readdir(join(root, 'stopped'))).sort()).toEqual(['adapter', 'curve.svg', 'train.json']);
  });

  const KILLS = 50;
  test(`killed ${KILLS} times at random moments: the state is whole each time, and the end is the same`, async () => {
    const steps = 1200;
    const expected = await whole(steps);
    const mine = [...flags, '--steps', String(steps), '--save', '1', '--out', 'killed', '--evaluate', '1000000'];
    const r = rng(Date.now());
    const state = join(root, 'killed/state.safetensors');
    let [kills, last] = [0, 0];
    const began = new Set<number>();
    for (;;) {
      const there = await exists(state);
      const [wait] = r.split(String(kills)).uniform(1);
      const { code } = await tinypeft(root, there ? [...mine, '--resume'] : mine, (err, child) => {
        if (kills >= KILLS || !/lora \d+\//.test(err) || began.has(kills)) return;
        began.add(kills);
        setTimeout(() => child.kill('SIGKILL'), wait! * 200);
      });
      if (code === 0) break;
      kills++;
      if (!(await exists(state))) continue; // killed before the first one
      const { state: now } = await readState(state);
      expect(now.step).toBeGreaterThanOrEqual(last);
      last = now.step;
    }
    expect(last).toBeGreaterThan(KILLS); // it did go on
    expect(kills).toBe(KILLS);
    expect(await adapterBytes('killed')).toEqual(expected);
  });
});
