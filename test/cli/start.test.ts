// npm start and npm run classify as a user meets them, with a tiny encoder and a dozen sentences.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { meanAndInterval } from '../../cli/interval.ts';
import { prepared, recipes } from '../../cli/recipes.ts';
import { parseFlags } from '../../cli/startFlags.ts';
import { METHODS, openEncoder } from '../../cli/task.ts';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { leaf } from '../../core/tensor.ts';
import { loadAdapter, saveAdapter } from '../../io/adapters.ts';
import { batchOf } from '../../io/batches.ts';
import { context } from '../../nn/context.ts';
import { freeze } from '../../nn/freeze.ts';
import { classifier } from '../../nn/heads.ts';
import type { Model } from '../../nn/layer.ts';
import { classify } from '../../nn/losses.ts';
import { trainable } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';
import { writeTinyBert } from '../io/tinyBert.ts';

const cwd = resolve(import.meta.dirname, '../..');
const tsx = createRequire(import.meta.url).resolve('tsx');
interface Ended {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}
/** Runs a command; `meanwhile` hears what it says on stderr, as it comes. */
function run(program: string, args: readonly string[], meanwhile: (err: string, child: ChildProcess) => void = () => {}): Promise<Ended> {
  return new Promise((done) => {
    const child = spawn(process.execPath, ['--import', tsx, `cli/${program}.ts`, ...args], { cwd });
    const said = { out: '', err: '' };
    child.stdout.on('data', (d: Buffer) => {
      said.out += d.toString();
    });
    child.stderr.on('data', (d: Buffer) => {
      said.err += d.toString();
      meanwhile(said.err, child);
    });
    child.on('close', (code) => done({ code, ...said }));
  });
}

let root = '';
let common: string[] = [];
const out = (name: string): string => join(root, name);
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'tinypeft-start-'));
  await writeTinyBert(root);
  const words = [
    ['i love the phone .', 'praise'],
    ['the phone is good', 'praise'],
    ['very good', 'praise'],
    ['i love the phones', 'praise'],
    ['good phone .', 'praise'],
    ['i hate the phone', 'blame'],
    ['the phone is bad', 'blame'],
    ['very bad', 'blame'],
    ['not good', 'blame'],
    ['bad phone .', 'blame'],
  ];
  await writeFile(out('mine.jsonl'), words.map(([text, label]) => JSON.stringify({ text, label })).join('\n'));
  common = ['--model', root, '--data', out('mine.jsonl'), '--engine', 'float64', '--rows', '4', '--lr', '0.01', '--rank', '2'];
});
afterAll(() => rm(root, { recursive: true }));

describe.concurrent('npm start', () => {
  test('tunes, tells, writes; and classify uses what it wrote', async () => {
    const { code, out: said, err } = await run('start', [...common, '--epochs', '1', '--seeds', '2', '--out', out('a')]);
    expect(code, err).toBe(0);
    expect(said).toMatch(/^engine {3}float64 /m);
    expect(said).toMatch(/^data {5}8 sentences to train on, 2 kept aside; labels blame, praise; 5\.\d tokens each$/m);
    expect(said).toMatch(/^method {2}trainable {2}% of base {2}seconds {2}tokens\/s {2}accuracy on 2 {2}adapter$/m);
    expect(said).toMatch(/^probe +18 .* \d+\.\d ± \d+\.\d %/m); // 2·8 + 2
    expect(said).toMatch(/^lora +146 /m); //               and 2 blocks × q, v × 2·(8 + 8)
    expect(err).toMatch(/^features 10\/10$/m);
    expect(err).toMatch(/^seed 1 +2\/2 +loss /m);
    const folder = join(out('a'), 'adapter');
    expect(said).toContain(`npm run classify -- "I love this phone" --adapter ${folder}`);
    expect(await readFile(join(out('a'), 'curve.svg'), 'utf8')).toMatch(/^<svg[\s\S]*mean of 2 seeds[\s\S]*accuracy on those kept aside/);
    await expect(stat(join(out('a'), 'states'))).rejects.toThrow(/ENOENT/);

    const [text, json, none] = await Promise.all([
      run('classify', ['i love the phone', 'bad', '--adapter', folder, '--engine', 'float64']),
      run('classify', ['i love the phone', '--adapter', folder, '--engine', 'float64', '--json']),
      run('classify', ['x', '--adapter', out('b')]),
    ]);
    expect(text.code, text.err).toBe(0);
    expect(text.out).toMatch(/^(praise|blame) +[01]\.\d{3} +i love the phone\n(praise|blame) +[01]\.\d{3} +bad\n$/m);
    const { probabilities, label } = JSON.parse(json.out) as { probabilities: Record<string, number>; label: string };
    expect(probabilities.praise! + probabilities.blame!).toBeCloseTo(1, 6);
    expect(probabilities[label]).toBe(Math.max(...Object.values(probabilities)));
    expect(none.code).not.toBe(0);
    expect(none.err).toMatch(/task\.json: no such file; --adapter names a folder that npm start wrote/);
  });

  test('an interrupted run goes on to the same bits', async () => {
    const long = [...common, '--epochs', '60', '--seeds', '2'];
    const whole = run('start', [...long, '--out', out('whole')]);
    const sent = { yet: false };
    const cut = await run('start', [...long, '--out', out('cut')], (err, child) => {
      if (sent.yet || !/^seed 1 +1\/120/m.test(err)) return;
      sent.yet = true;
      child.kill('SIGINT');
    });
    expect(cut.code, cut.err).toBe(130);
    const [, step, again] = /Stopped after step (\d+) of 120 of seed 1\. To go on: npm start -- (.*)$/m.exec(cut.out) ?? [];
    expect(Number(step)).toBeGreaterThanOrEqual(1);
    expect(Number(step)).toBeLessThan(120);
    const other = await run('start', [...long, '--out', out('cut'), '--resume', '--rank', '3']);
    expect(other.err).toMatch(/--resume: the interrupted run had --rank 2; give the same options/);
    const resumed = await run('start', again!.split(' '));
    expect(resumed.code, resumed.err).toBe(0);
    const w = await whole;
    expect(w.code, w.err).toBe(0);
    const curve = (name: string): Promise<string> => readFile(join(out(name), 'curve.svg'), 'utf8'); // from all losses of both seeds
    expect(await curve('cut')).toBe(await curve('whole'));
    const adapter = (name: string): Promise<Buffer> => readFile(join(out(name), 'adapter/adapter.safetensors'));
    expect((await adapter('cut')).equals(await adapter('whole'))).toBe(true);
    const seeds = (said: string): string[] => said.split('\n').filter((l) => l.startsWith('seed '));
    expect(seeds(resumed.out)).toEqual(seeds(w.out));
    const nothing = await run('start', [...long, '--out', out('cut'), '--resume']);
    expect(nothing.err).toMatch(/--resume: there is no interrupted run in/);
  });

  test('has help', async () => {
    const [start, classify] = await Promise.all([run('start', ['--help']), run('classify', ['--help'])]);
    expect(start).toMatchObject({ code: 0, out: expect.stringMatching(/--method NAME.*\n[\s\S]*--resume/) as string });
    expect(classify).toMatchObject({ code: 0, out: expect.stringContaining('--adapter DIR') as string });
  });
});

describe('its options', () => {
  test.each([
    [['--method', 'lorra'], /there is no lorra\. Nearest: lora/],
    [['--epochs', '0'], /--epochs must be a whole number from 1, got '0'/],
    [['--lr', 'fast'], /--lr must be a number above 0, got 'fast'/],
    [['--where', 'q,w'], /there is no linear layer w; an encoder has q, k, v, o, up, down/],
    [['--speed', '9'], /--speed/],
  ])('%j is refused', (args, error) => {
    expect(() => parseFlags(args)).toThrow(error);
  });
  test('defaults', () => {
    expect(parseFlags([])).toMatchObject({ method: 'lora', lr: recipes.lora!.lr, seeds: 3, model: null, data: null, resume: false });
  });
});

describe('every method it offers', () => {
  test.each(Object.keys(recipes))('%s trains, and its adapter loads onto a fresh encoder', async (name) => {
    const [engine, seed] = [float64(), 3];
    const fresh = async (): Promise<Model> =>
      classifier((await openEncoder(root)).model, { classes: 3, pool: 'mean', pooler: false }, rng(seed));
    const start = await prepared(await fresh(), recipes[name]!, { rank: 2, where: ['q', 'v'], seed, steps: 5 }, engine);
    const { tokenizer } = await openEncoder(root);
    const batch = batchOf(
      ['i love the phones', 'very bad'].map((text, label) => ({ ids: tokenizer.encode(text), label })),
      8,
    );
    const t = await trainer(start, { engine, loss: classify, total: 5, optimizer: adamw({ lr: recipes[name]!.lr }) });
    const losses: number[] = [];
    for (let k = 0; k < 5; k++) losses.push((await t.step({ ...batch })).loss);
    expect(losses.at(-1)).toBeLessThan(losses[0]!);
    const tuned = await t.model();
    const trained = [...trainable(tuned).values()];
    expect(trained.filter((path) => path.startsWith('head.'))).toHaveLength(2);
    expect(trained.filter((path) => path.startsWith('trunk.')).length).toBeGreaterThan(0);

    const folder = out(`adapter-${name}`);
    await saveAdapter(tuned, folder);
    const again = await loadAdapter(freeze(await fresh()), folder, METHODS);
    const logits = (m: Model): Promise<ArrayLike<number>> =>
      engine.read(m({ ids: leaf(batch.ids.data, batch.ids.shape), keyMask: leaf(batch.keyMask.data, batch.keyMask.shape) }, context(8)));
    const [a, b] = [await logits(tuned), await logits(again)];
    expect(a).toHaveLength(6);
    for (let k = 0; k < 6; k++) expect(b[k]).toBeCloseTo(a[k]!, 6);
  });
});

test('mean and interval', () => {
  expect(meanAndInterval([0.9])).toEqual({ mean: 0.9, half: null });
  const { mean, half } = meanAndInterval([1, 2, 3]);
  expect(mean).toBe(2);
  expect(half).toBeCloseTo(4.303 / Math.sqrt(3), 10);
  expect(meanAndInterval(Array.from({ length: 30 }, (_, k) => k)).half).toBeCloseTo((2.045 * Math.sqrt(77.5)) / Math.sqrt(30), 2);
});
