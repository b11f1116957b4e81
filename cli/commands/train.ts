// `tinypeft train`: a model, a file of texts and a method become an adapter, with a curve, a state to go on from, and a table.
import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { short } from '../../core/account.ts';
import { columns } from '../../core/columns.ts';
import type { Engine } from '../../core/engine.ts';
import { nearest } from '../../core/nearest.ts';
import { rng } from '../../core/rng.ts';
import { saveAdapter } from '../../io/adapters.ts';
import { curves, writeFigure } from '../../io/figure.ts';
import { writeAtomic } from '../../io/files.ts';
import { interrupt } from '../../io/interrupt.ts';
import { savePeft } from '../../io/peft/save.ts';
import { progress } from '../../io/progress.ts';
import { readRecords, type TextRecord } from '../../io/records.ts';
import { unfreeze } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { methods } from '../../peft/all.ts';
import type { Transform } from '../../peft/method.ts';
import { qlora } from '../../peft/reparameterized/qlora.ts';
import { report } from '../../peft/report.ts';
import { inBlocks, quantize } from '../../quant/quantize.ts';
import { UsageError } from '../usage.ts';
import { readTrainCall, type TrainConfig } from './config.ts';
import { engineFor, type Opened, openModel, SCHEMES } from './open.ts';
import { type Run, runOf } from './run.ts';
import { classification, type Job, language, type Texts } from './task.ts';

const CONFIG = 'train.json';
const STATE = 'state.safetensors';

export async function train(args: readonly string[]): Promise<void> {
  const call = await readTrainCall(args);
  if (typeof call === 'string') return console.log(call);
  const { config: c, resume } = call;
  const transform = methodOf(c); // what is wrong with it is said before anything is read
  const records = await readRecords(c.data);
  const measured = c.evalData === null ? null : await readRecords(c.evalData);
  await begin(c, resume);
  using stop = interrupt();
  await using engine = await engineFor(c);
  const labelled = records[0]!.kind === 'label';
  const opened = await openModel(c.model, { withoutHead: labelled, dtype: c.dtype });
  const texts = split(records, measured, c);
  const job = labelled ? classification(texts, opened, c) : language(texts, opened, c);
  console.error(`data     ${job.described}`);
  const model = await prepared(job, opened, transform, c, engine, job.calibration);
  const { total } = report(model);
  console.error(`method   ${c.method}: ${total.trainable.toLocaleString('en-US')} trainable numbers`);
  const run = await runOf(job, model, c, {
    engine,
    signal: stop.signal,
    state: join(c.out, STATE),
    resume,
    view: progress({ title: c.method }),
  });
  if (run.step < run.steps) {
    process.exitCode = 130;
    const again = args.filter((a) => a !== '--resume');
    return console.error(`Stopped after step ${run.step} of ${run.steps}. To go on: tinypeft train ${again.join(' ')} --resume`);
  }
  const written = await write(run, job, c, engine);
  await rm(join(c.out, STATE), { force: true });
  const result = { method: c.method, trainable: total.trainable, ...run.summary, ...written };
  console.log(table(result, job));
  if (call.json) console.log(JSON.stringify(result));
}

/** The method with its options; null for full fine-tuning. */
function methodOf(c: TrainConfig): ((steps: number) => Transform) | null {
  const { seed, options } = c;
  if (c.method === 'full') return null;
  if (c.method === 'qlora') {
    if (c.quantize !== 'none')
      throw new UsageError('qlora packs the base itself (nf4-double); leave quantize out, or take lora with quantize');
    const { rank, alpha, dropout } = options;
    return () =>
      qlora({
        seed,
        ...(typeof rank === 'number' ? { rank } : {}),
        ...(typeof alpha === 'number' ? { alpha } : {}),
        ...(typeof dropout === 'number' ? { dropout } : {}),
      });
  }
  const listed = methods.find((m) => m.name === c.method);
  if (listed === undefined)
    throw new UsageError(
      `method: there is no ${c.method}. Nearest: ${nearest(
        c.method,
        methods.map((m) => m.name),
      ).join(', ')}. All: tinypeft methods`,
    );
  try {
    const made = listed.configured({ seed, ...options });
    return () => made;
  } catch (e) {
    throw new UsageError((e as Error).message, { cause: e });
  }
}

/** The base packed, the head on it, the method attached. */
async function prepared(
  job: Job,
  { model }: Opened,
  method: ((steps: number) => Transform) | null,
  c: TrainConfig,
  engine: Engine,
  calibration: Job['calibration'],
): Promise<Model> {
  const packed = c.quantize === 'none' ? model : quantize(model, inBlocks, SCHEMES[c.quantize]!());
  const headed = job.headed(packed, rng(c.seed).split('head'));
  if (method === null) {
    if (c.quantize !== 'none') throw new UsageError('full trains every weight, and packed weights cannot be trained; leave quantize out');
    return unfreeze(headed, () => true);
  }
  const transform = method(job.steps);
  return (await transform.prepare(headed, { engine, batches: calibration.batches, loss: calibration.loss, seed: c.seed }))(headed);
}

/** The share kept aside, drawn by the seed; of one record of prose, its end. */
function split(records: readonly TextRecord[], measured: readonly TextRecord[] | null, c: TrainConfig): Texts {
  if (measured !== null) return { train: records, held: measured };
  if (records.length === 1 && records[0]!.kind === 'text') {
    const { text } = records[0]!;
    const at = Math.floor(text.length * (1 - c.held));
    return { train: [{ kind: 'text', text: text.slice(0, at) }], held: c.held === 0 ? [] : [{ kind: 'text', text: text.slice(at) }] };
  }
  const n = Math.floor(records.length * c.held);
  const order = rng(c.seed).split('held').permutation(records.length);
  return { train: order.slice(n).map((k) => records[k]!), held: order.slice(0, n).map((k) => records[k]!) };
}

/** Writes down the configuration, or compares it with that of the run to go on with. */
async function begin(c: TrainConfig, resume: boolean): Promise<void> {
  const path = join(c.out, CONFIG);
  if (!resume) {
    await mkdir(c.out, { recursive: true });
    await rm(join(c.out, STATE), { force: true });
    return writeAtomic(path, [new TextEncoder().encode(`${JSON.stringify(c, null, 2)}\n`)]);
  }
  const before = await readFile(path, 'utf8').catch(() => {
    throw new UsageError(`--resume: there is no interrupted run in ${c.out}; start one without --resume`);
  });
  const then = JSON.parse(before) as Readonly<Record<string, unknown>>;
  const changed = Object.entries(c).filter(([k, v]) => JSON.stringify(then[k]) !== JSON.stringify(v));
  if (changed.length > 0)
    throw new UsageError(
      `--resume: the interrupted run had ${changed.map(([k]) => `${k} ${JSON.stringify(then[k])}`).join(', ')}; give the same, or start anew without --resume`,
    );
}

interface Written {
  readonly adapter: string;
  readonly bytes: number;
  readonly format: string;
  readonly curve: string;
}
async function write(run: Run, job: Job, c: TrainConfig, engine: Engine): Promise<Written> {
  const folder = join(c.out, 'adapter');
  const curve = join(c.out, 'curve.svg');
  await writeFigure(
    curve,
    curves(`${c.method} on ${c.data}`, { x: 'step', y: job.measure }, [
      { name: 'training loss', points: run.losses },
      { name: `${job.measure} on texts kept aside`, points: run.measured, dashed: true },
    ]),
  );
  const saved = await save(run.model, folder, c, engine, job);
  if (job.labels !== null) await writeAtomic(join(folder, 'labels.json'), [new TextEncoder().encode(`${JSON.stringify(job.labels)}\n`)]);
  return { adapter: folder, ...saved, curve };
}

async function save(model: Model, folder: string, c: TrainConfig, engine: Engine, job: Job): Promise<{ bytes: number; format: string }> {
  const total = report(model).total.bytes;
  const peft = async (): Promise<{ bytes: number; format: string }> => {
    await savePeft(model, folder, { engine, baseModel: c.model, task: job.peftTask });
    return { bytes: total, format: 'Hugging Face PEFT' };
  };
  const own = async (): Promise<{ bytes: number; format: string }> => ({
    bytes: (await saveAdapter(model, folder)).bytes,
    format: 'tinypeft',
  });
  if (c.format === 'own') return own();
  if (c.format === 'peft') return peft();
  try {
    return await peft();
  } catch (e) {
    console.error(`adapter  written as tinypeft's own: ${(e as Error).message}`);
    return own();
  }
}

function table(r: Run['summary'] & Written & { readonly method: string; readonly trainable: number }, job: Job): string {
  const number = (x: number | null): string => (x === null ? '–' : x.toFixed(4));
  return [
    columns(
      ['method', 'trainable', 'steps', 'seconds', 'tokens/s', `${job.measure} before`, 'after', 'adapter'],
      [
        [
          r.method,
          r.trainable.toLocaleString('en-US'),
          String(r.steps),
          r.seconds.toFixed(1),
          Math.round(r.tokensPerSecond).toLocaleString('en-US'),
          number(r.before),
          number(r.after),
          short(r.bytes, 'B'),
        ],
      ],
    ),
    `wrote    ${r.adapter} (${r.format}), ${r.curve}`,
  ].join('\n');
}
