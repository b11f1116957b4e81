// npm run methods -- --train: every method with its defaults on the demo task, one after the other, in one table.
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { account } from '../core/account.ts';
import type { Engine } from '../core/engine.ts';
import { openEngine } from '../core/open.ts';
import { size } from '../core/shape.ts';
import { leaf } from '../core/tensor.ts';
import { interrupt } from '../io/interrupt.ts';
import { duration } from '../io/progress.ts';
import { context, stochastic } from '../nn/context.ts';
import { unfreeze } from '../nn/freeze.ts';
import type { Model } from '../nn/layer.ts';
import { tensors, trainable } from '../nn/tree.ts';
import { adamw } from '../optim/adamw.ts';
import { clipByNorm } from '../optim/clip.ts';
import { evaluate } from '../optim/evaluate.ts';
import { inspect, stepProgram } from '../optim/program.ts';
import { cosine, warmup } from '../optim/schedule.ts';
import { type Batch, inputs, NonFiniteError, trainer } from '../optim/trainer.ts';
import { methods } from '../peft/all.ts';
import type { Listed } from '../peft/listed.ts';
import type { Env } from '../peft/method.ts';
import { type Demo, demo, type Hidden, PRETRAINING, restore, SIZES } from './demo.ts';
import { ADJUSTED } from './methodAdjusted.ts';
import { composing } from './methodComposes.ts';
import { type Entry, formatTrained, type Outcome, type Settings, writeTrained } from './methodTrained.ts';

/** The rates that each method's own is chosen from, by the loss on the validation part after a training with seed 0. */
export const RATES = [0.002, 0.01, 0.05] as const;
/** Of the first stage of methods that have one. */
const STAGE_RATE = 0.002;
const EXAMPLES = 16; // batches for methods that look at data first

/** One training: the loss on both parts kept aside. */
interface Run {
  readonly validation: number;
  readonly test: number;
}
const INFINITE: Run = { validation: Number.POSITIVE_INFINITY, test: Number.POSITIVE_INFINITY };
const optimizer = (lr: number) => adamw({ lr });
const clip = clipByNorm(1);

/** Trains what is trainable in a model; null when the signal came. A training that diverges has an infinite loss. */
async function run(
  model: Model,
  d: Demo,
  o: { engine: Engine; steps: number; lr: number; seed: number; signal?: AbortSignal | undefined },
): Promise<{ readonly model: Model; readonly run: Run } | null> {
  await using t = await trainer<Model, Hidden>(model, {
    ...{ engine: o.engine, loss: restore, seed: o.seed, total: o.steps, clip, optimizer: optimizer(o.lr) },
    schedule: warmup(Math.ceil(o.steps / 20), cosine({ end: 0.1 })),
  });
  const batch = d.train(o.seed);
  try {
    for (let step = 1; step <= o.steps; step++) {
      if (o.signal?.aborted) return null;
      await t.step(batch(step));
    }
    return { model: await t.model(), run: { validation: await t.evaluate(d.validation), test: await t.evaluate(d.test) } };
  } catch (e) {
    if (!(e instanceof NonFiniteError)) throw e;
    return { model, run: INFINITE };
  }
}

const tensorsOf = (b: Batch<Hidden>): Hidden => ({
  ids: leaf([...b.ids.data], b.ids.shape),
  targets: leaf([...b.targets.data], b.targets.shape),
});

/** A method attached to the base as its paper has it, first stages and passes over data included. */
export async function attached(m: Listed, d: Demo, o: { engine: Engine; steps: number; seed: number }): Promise<Model> {
  const batch = d.train(o.seed);
  const train = async (model: Model): Promise<Model> => (await run(model, d, { ...o, lr: STAGE_RATE }))!.model; // never null: no signal
  const transform = (await ADJUSTED[m.name]?.make(o.seed, d, train)) ?? m.standard(o.seed);
  const env: Env = {
    engine: o.engine,
    seed: o.seed,
    batches: Array.from({ length: EXAMPLES }, (_, k) => tensorsOf(batch(k + 1))),
    loss: (model, b) => restore(model, b as typeof b & Hidden, context(SIZES.tokens)), // a seam: these batches are those above
    train,
  };
  return (await transform.prepare(d.base, env))(d.base);
}

/** What one step of training costs, counted from the program that runs. */
function costOf(model: Model, d: Demo): { flops: number; saved: number; optimizer: number } {
  const o = optimizer(1);
  const t = inspect(model, o);
  const { program } = stepProgram(restore, model, inputs<Hidden>(d.train(0)(1)), stochastic(), t, o, clip);
  const a = account(program, { params: t.trained.keys() });
  return { flops: a.total.flops, saved: a.total.saved, optimizer: a.optimizer };
}
const scalars = (model: Model): number => [...trainable(model).keys()].reduce((n, p) => n + size(p.shape), 0);

type About = Pick<Entry, 'name' | 'family' | 'place' | 'mergeable' | 'composable'>;

/** Chooses the rate with seed 0, then trains with the other seeds. Null when the signal came. */
export async function compare(
  about: About,
  make: (seed: number) => Promise<Model>,
  d: Demo,
  o: {
    engine: Engine;
    steps: number;
    seeds: number;
    rates: readonly number[];
    signal?: AbortSignal | undefined;
    says?: (what: string) => void;
  },
): Promise<Entry | null> {
  const [began, cpu] = [performance.now(), process.cpuUsage()];
  const fresh = await make(0);
  const tried: Run[] = [];
  for (const lr of o.rates) {
    o.says?.(`rate ${lr}`);
    const done = await run(fresh, d, { ...o, lr, seed: 0 });
    if (done === null) return null;
    tried.push(done.run);
  }
  const best = tried.reduce((b, r, k) => (r.validation < tried[b]!.validation ? k : b), 0);
  const losses = [tried[best]!.test];
  for (let seed = 1; seed < o.seeds; seed++) {
    o.says?.(`seed ${seed}`);
    const done = await run(await make(seed), d, { ...o, lr: o.rates[best]!, seed });
    if (done === null) return null;
    losses.push(done.run.test);
  }
  const used = process.cpuUsage(cpu);
  return {
    ...about,
    trainable: scalars(fresh),
    ...costOf(fresh, d),
    adjusted: ADJUSTED[about.name]?.why ?? null,
    rate: o.rates[best]!,
    losses,
    seconds: (performance.now() - began) / 1000,
    cpuSeconds: (used.user + used.system) / 1e6,
  };
}

const aboutOf = async (m: Listed, composes: ReturnType<typeof composing>): Promise<About> => ({
  name: m.name,
  family: m.family,
  place: m.at,
  mergeable: m.standard().parts.every((p) => p.method.mergeable),
  composable: await composes(m),
});
/** All weights trained: what the methods are measured against. */
export const FULL = 'full fine-tuning';

const QUICK = ['lora', 'ia3', 'houlsby', 'promptTuning', 'prefixTuning', 'bitfit', 'headOnly', 'vera', 'mam'];

export interface TrainOptions {
  readonly steps?: number | undefined;
  readonly seeds?: number | undefined;
  readonly only?: readonly string[] | undefined;
  readonly quick?: boolean;
  readonly resume?: boolean;
}

/** Runs the comparison and writes it. False when it was interrupted. */
export async function train({ steps, seeds, only, quick = false, resume = false }: TrainOptions): Promise<boolean> {
  const chosen = only ?? (quick ? QUICK : methods.map((m) => m.name));
  const settings: Settings = {
    steps: steps ?? (quick ? 40 : 100),
    seeds: seeds ?? (quick ? 1 : 3),
    pretraining: quick ? 400 : PRETRAINING,
    rates: RATES,
  };
  const folder = chosen.length === methods.length ? 'docs' : join('out', 'methods');
  const partial = join('out', 'methods', 'partial.json');
  await mkdir(join('out', 'methods'), { recursive: true });
  if (folder !== 'docs') await mkdir(folder, { recursive: true });
  using stop = interrupt();
  await using engine = await openEngine();
  const { report: r } = engine;
  console.error(`engine   ${r.engine} (${r.mode}): ${r.why}`);
  const [started, composes] = [performance.now(), composing()];
  const say = status();
  const known = resume ? await readPartial(partial, settings) : new Map<string, Entry>();
  const d = await demo({
    ...{ engine, signal: stop.signal, steps: settings.pretraining },
    onStep: say,
  });
  const names = [FULL, ...chosen];
  const entries: Entry[] = [];
  const at = performance.now();
  const fresh = names.filter((n) => !known.has(n)).length;
  for (const name of names) {
    const m = methods.find((o) => o.name === name);
    if (d === null || stop.signal.aborted) break;
    const done = entries.filter((e) => !known.has(e.name)).length;
    const left = done === 0 ? '' : `  ${duration(((performance.now() - at) / 1000 / done) * (fresh - done))} left`;
    const title = `${String(entries.length + 1).padStart(3)}/${names.length} ${name}`;
    const o = { engine, ...settings, signal: stop.signal, says: (what: string) => say(`${title}  ${what}${left}`, false) };
    const e =
      known.get(name) ??
      (m === undefined
        ? await compare(
            { name, family: '—', place: [], mergeable: true, composable: 'any' },
            async () => unfreeze(d.base, () => true),
            d,
            o,
          )
        : await compare(await aboutOf(m, composes), (seed) => attached(m, d, { ...o, seed }), d, o));
    if (e === null) break;
    entries.push(e);
    say(`${title}  loss ${e.losses.map((l) => l.toFixed(3)).join(' ')}  rate ${e.rate}${left}`, true);
    await writeFile(partial, JSON.stringify({ settings, entries }));
  }
  if (d === null || entries.length < names.length) {
    process.exitCode = 130;
    console.error(`Stopped after ${entries.length} of ${names.length}; go on with the same command and --resume`);
    return false;
  }
  const lora = costOf(await attached(methods.find((m) => m.name === 'lora')!, d, { engine, steps: 1, seed: 0 }), d);
  const outcome: Outcome = {
    settings,
    task: d.described,
    engine: `${r.engine}, ${r.mode}`,
    minutes: (at - started) / 60000 + entries.reduce((sum, e) => sum + e.seconds / 60, 0), // also what was done before it was resumed
    base: {
      scalars: [...tensors(d.base)].reduce((n, { tensor }) => n + size(tensor.shape), 0),
      loss: await evaluate(d.base, { engine, measure: restore, batches: d.test }),
    },
    loraFlops: lora.flops,
    entries,
  };
  console.log(formatTrained(outcome));
  console.error(`wrote    ${(await writeTrained(outcome, folder)).join(', ')}`);
  return true;
}

async function readPartial(path: string, settings: Settings): Promise<Map<string, Entry>> {
  const text = await readFile(path, 'utf8').catch((e: NodeJS.ErrnoException) => {
    if (e.code === 'ENOENT') return null;
    throw e;
  });
  const found = text === null ? null : (JSON.parse(text) as { settings: Settings; entries: Entry[] });
  const fits =
    found !== null && JSON.stringify(found.settings) === JSON.stringify(settings) && found.entries.every((e) => e.composable !== undefined);
  return new Map(fits ? found.entries.map((e) => [e.name, e]) : []);
}

/** A line on stderr that is written over; where stderr is no terminal, only what is final. */
function status(): (text: string, final: boolean) => void {
  const tty = process.stderr.isTTY === true;
  return (text, final) => {
    if (tty) process.stderr.write(`\r\x1b[K${text}${final ? '\n' : ''}`);
    else if (final) process.stderr.write(`${text}\n`);
  };
}
