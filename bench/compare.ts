// npm run compare: training steps and products of ours beside TensorFlow.js, jax-js and PyTorch, in one run.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { type Answer, hasTorch, installPeers, measure } from './children.ts';
import { type CompareWork, type Contestant, chosen, contestants, ROOT, works } from './contestants.ts';
import { goals, goalTable } from './goals.ts';
import { busy, described, type Machine, machine } from './machine.ts';
import type { Effort } from './measurement.ts';
import { disagreeing, failures, productTable, type Result, type Summary, summarise, trainingTable } from './verdict.ts';

export const help = `npm run compare -- [--quick] [--work W2,W3] [--only ours,torch] [--threads 1,2] [--rounds N] [--json] [--save]

  Measures ours (WebAssembly SIMD, with and without fused multiply-add) beside TensorFlow.js and jax-js, and beside PyTorch
  when python3 (or $PYTHON) has it. Each measurement is a process of its own; contestants take turns (A B C, A B C, …).
  Everybody starts from the same weights and tokens, so losses must agree to 1e-4; when they do not, the exit code is 1.

  W1       products of 512³ and 1024³, ours in all transposes
  W2       one LoRA step: GPT-2 of width 256, 4 layers, batch 8 × 128
  W3       one full step of the same
  W2-last  W2 with LoRA on the last block only (ours): what freezing saves
  W4, W4h  one LoRA step at MiniLM's size (width 384, 6 layers), batch 16 and 8

  --quick        one round of the most telling measurements, under 3 minutes; what does not fit is left out and named
  --work LIST    of ${works.join(',')} (all)
  --only LIST    contestants by name or beginning: ours, ours-plain-1t, tfjs, jax, torch-2t, …; on request only: ours-webgpu, torch-cuda
  --threads LIST threads to compute with, for those that can (1,2)
  --rounds N     rounds (3)
  --json         machine, results and goals as JSON
  --save         also into bench/results/compare-<processor>-<date>.json
  --help         this text`;

export interface Options {
  readonly quick: boolean;
  readonly works: readonly CompareWork[];
  readonly only: readonly string[];
  readonly threads: readonly number[];
  readonly rounds: number;
  readonly json: boolean;
  readonly save: boolean;
  readonly help: boolean;
}

/** Options of a command line, or the sentence that says what is wrong with it. */
export function read(args: readonly string[]): Options | string {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        quick: { type: 'boolean', default: false },
        work: { type: 'string' },
        only: { type: 'string', default: '' },
        threads: { type: 'string', default: '1,2' },
        rounds: { type: 'string' },
        json: { type: 'boolean', default: false },
        save: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    });
    const list = (s: string): string[] => s.split(',').filter((x) => x !== '');
    const named = list(values.work ?? works.join(','));
    const unknown = named.find((w) => !works.some((k) => k === w));
    if (unknown !== undefined || named.length === 0)
      return `--work ${values.work}: there is no workload '${unknown ?? ''}'; choose among ${works.join(', ')}`;
    const threads = list(values.threads).map(Number);
    if (threads.length === 0 || threads.some((t) => !Number.isInteger(t) || t < 1 || t > 16))
      return `--threads ${values.threads}: expected whole numbers from 1 to 16, such as 1,2`;
    const rounds = Number(values.rounds ?? (values.quick ? 1 : 3));
    if (!Number.isInteger(rounds) || rounds < 1) return `--rounds ${values.rounds}: expected a whole number from 1`;
    const only = list(values.only);
    chosen(contestants(threads, 'python3'), only);
    return { ...values, works: works.filter((w) => named.includes(w)), only, threads: [...new Set(threads)], rounds };
  } catch (e) {
    return e instanceof Error ? e.message : String(e);
  }
}

const FULL: Effort = { steps: 6, warm: 2, seconds: 20 };
const QUICK: Effort = { steps: 3, warm: 1, seconds: 6 };
/** Seconds: of a whole quick run, and of one measurement of a full one. */
const QUICK_LIMIT = 170;
const ONE_LIMIT = 420;
const LEFT_OUT = 'left out: the time of a quick run is over';
/** Workloads in the order in which a quick run can least do without them. */
const QUICK_ORDER: readonly CompareWork[] = ['W2', 'W3', 'W2-last', 'W1', 'W4h', 'W4'];

/** Runs all rounds; `say` hears of every measurement. */
async function run(o: Options, who: readonly Contestant[], say: (line: string) => void): Promise<Result[]> {
  const began = performance.now();
  const spent = (): number => (performance.now() - began) / 1000;
  const order = o.quick ? QUICK_ORDER.filter((w) => o.works.includes(w)) : o.works;
  const results = new Map<string, Result>();
  const broken = new Set<string>(); // what failed once is not tried again
  for (let round = 1; round <= o.rounds; round++)
    for (const work of order)
      for (const c of who.filter((x) => x.takes(work, o.quick && o.only.length === 0))) {
        const key = `${work} ${c.name}`;
        if (broken.has(key)) continue;
        const left = o.quick ? QUICK_LIMIT - spent() : ONE_LIMIT;
        const t = performance.now();
        const got: Answer = left < 2 ? { error: LEFT_OUT } : await measure(c.command(work, o.quick ? QUICK : FULL), left * 1000);
        const a = o.quick && spent() >= QUICK_LIMIT && 'error' in got ? { error: LEFT_OUT } : got; // cut short by the clock: no failure of its own
        const before: Result = results.get(key) ?? { work, name: c.name, side: c.side, threads: c.threads, rounds: [], error: null };
        if ('error' in a) broken.add(key);
        results.set(key, 'error' in a ? { ...before, error: a.error } : { ...before, rounds: [...before.rounds, ...a.measurements] });
        const took = `${((performance.now() - t) / 1000).toFixed(1)} s`;
        say(`${spent().toFixed(0).padStart(5)} s  round ${round}/${o.rounds}  ${key.padEnd(22)} ${'error' in a ? a.error : took}`);
      }
  return [...results.values()].toSorted((a, b) => works.indexOf(a.work) - works.indexOf(b.work));
}

function print(o: Options, m: Machine, summaries: readonly Summary[]): void {
  console.log(`\n${described(m)}`);
  const warning = busy(m);
  if (warning !== null) console.log(warning);
  for (const work of o.works.filter((w) => summaries.some((s) => s.work === w))) {
    if (work === 'W1') for (const n of [512, 1024]) console.log(`\nW1, ${n}³\n${productTable(summaries, n)}`);
    else console.log(`\n${work}\n${trainingTable(summaries, work)}`);
    for (const f of failures(summaries, work)) console.log(`  ${f}`);
  }
  console.log(
    '\n× best JS: how many times faster than the fastest JavaScript peer with at most as many threads. time ÷ PyTorch: at as many threads.',
  );
  const list = goals(summaries);
  if (list.length > 0) console.log(`\n${goalTable(list)}`);
  const wrong = disagreeing(summaries);
  if (wrong.length > 0)
    console.log(
      `\n!! RESULTS DISAGREE: these did not compute what ours computed, so their times mean nothing:\n${wrong.map((s) => `!!   ${s.work} ${s.name}${s.case === null ? '' : ` ${s.case}`} by ${s.difference.toExponential(1)}`).join('\n')}`,
    );
}

const fileName = (m: Machine, date: string): string =>
  `compare-${m.cpu
    .toLowerCase()
    .replace(/\(r\)|\(tm\)|@.*$|\b(processor|cpu)\b/g, '')
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-|-$/g, '')}-${date.slice(0, 10)}.json`;

async function main(): Promise<number> {
  const o = read(process.argv.slice(2));
  if (typeof o === 'string') {
    console.error(`compare: ${o}`);
    return 2;
  }
  if (o.help) {
    console.log(help);
    return 0;
  }
  const say = (line: string): void => console.error(line); // progress; the answer goes to standard output
  const python = process.env.PYTHON ?? 'python3';
  const picked = chosen(contestants(o.threads, python), o.only);
  const torch = picked.some((c) => c.side === 'pytorch') && hasTorch(python);
  if (!torch && picked.some((c) => c.side === 'pytorch'))
    say(`Without PyTorch: ${python} does not have it (pip install torch, or PYTHON=… names another Python).`);
  const who = picked.filter((c) => c.side !== 'pytorch' || torch);
  if (who.some((c) => c.side === 'javascript')) {
    const failed = installPeers(say);
    if (failed !== null) {
      console.error(`compare: ${failed}`);
      return 2;
    }
  }
  const m = machine();
  const warning = busy(m);
  if (warning !== null) say(warning);
  const date = new Date().toISOString();
  const results = await run(o, who, say);
  const summaries = summarise(results);
  const report = { date, machine: m, options: o, results: summaries, goals: goals(summaries) };
  const text = `${JSON.stringify(report, (_, v) => (typeof v === 'number' && Number.isFinite(v) ? Number(v.toPrecision(7)) : v), 2)}\n`;
  if (o.json) console.log(text);
  else print(o, m, summaries);
  if (o.save) {
    const file = join(ROOT, 'bench', 'results', fileName(m, date));
    mkdirSync(join(ROOT, 'bench', 'results'), { recursive: true });
    writeFileSync(file, text);
    say(`written: ${relative(process.cwd(), file)}`);
  }
  const oursFailed = results.some((r) => r.side === 'ours' && r.error !== null && r.error !== LEFT_OUT);
  return disagreeing(summaries).length > 0 || oursFailed ? 1 : 0;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) process.exitCode = await main();
