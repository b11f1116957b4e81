// The training of `tinypeft train`: a model, a file of texts and a method become an adapter, with a curve, a state to go on from, and a table.
import { randomBytes } from 'node:crypto';
import { access, mkdir, readdir, readFile, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { z } from 'zod';
import { short } from '../../core/account.ts';
import { columns } from '../../core/columns.ts';
import type { Engine } from '../../core/engine.ts';
import { nearest } from '../../core/nearest.ts';
import { rng } from '../../core/rng.ts';
import { applied, isJsonObject, parseJson } from '../../io/adapterJson.ts';
import { saveAdapter } from '../../io/adapters.ts';
import { curves, writeFigure } from '../../io/figure.ts';
import { writeAtomic } from '../../io/files.ts';
import { interrupt } from '../../io/interrupt.ts';
import { PEFT_FORMATS } from '../../io/peft/formats.ts';
import { savePeft } from '../../io/peft/save.ts';
import { progress } from '../../io/progress.ts';
import { readRecords, type TextRecord } from '../../io/records.ts';
import { unfreeze } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { methods } from '../../peft/all.ts';
import { programs } from '../../peft/lists/programs.ts';
import type { Env, Transform } from '../../peft/method.ts';
import { qlora } from '../../peft/reparameterized/qlora.ts';
import { report } from '../../peft/report.ts';
import { UsageError } from '../usage.ts';
import type { TrainCall, TrainConfig } from './config.ts';
import { engineFor, LABELS_FILE, type Opened, openModel, reader } from './open.ts';
import { packed, writePacking } from './packing.ts';
import { type Run, runOf } from './run.ts';
import { classification, type Job, language, type Texts } from './task.ts';

const CONFIG = 'train.json';
const STATE = 'state.safetensors';
/** What `qlora` packs its base in. */
const QLORA_PACKING = 'nf4-double';
const QLORA = z.strictObject({ rank: z.int().min(1), alpha: z.number().positive(), dropout: z.number().min(0).max(0.99) }).partial();

/** Methods that files of Hugging Face PEFT hold, alone or beside another (the LoRA of Supra, that of embeddings). */
const IN_PEFT: ReadonlySet<string> = new Set(PEFT_FORMATS.flatMap((f) => [f, ...(f.beside ?? [])]).map((f) => f.method));

/** What to do with methods that train nothing unless told to. */
const REMEDY: Readonly<Record<string, string>> = {
  arrow:
    'It chooses between LoRAs that are trained already: combine them with arrowOf (peft/reparameterized/arrowOf.ts), or give the folder of such a mixture as --adapter to tinypeft eval or generate. To train experts from the start: --option trainExperts=true',
};

/** `args` are said again where a run was interrupted. */
export async function training({ config: c, resume, json }: TrainCall, args: readonly string[]): Promise<void> {
  const transform = methodOf(c); // what is wrong with it is said before anything is read
  const records = await readRecords(c.data);
  const measured = c.evalData === null ? null : await readRecords(c.evalData);
  const labelled = records[0]!.kind === 'label';
  if (measured !== null && (measured[0]!.kind === 'label') !== labelled)
    throw new UsageError(`${c.data} and ${c.evalData}: one has labels and the other has none`);
  await begin(c, resume);
  using stop = interrupt();
  await using engine = await engineFor(c);
  const opened = reader(await openModel(c.model, wholeNumbers(c) ? 'float32' : c.dtype), c.model);
  const texts = split(records, measured, c);
  const job = labelled ? classification(texts, opened, c) : language(texts, opened, c);
  console.error(`data     ${job.described}`);
  const model = await prepared(job, opened, transform, c, engine, job.calibration);
  const { total } = report(model);
  if (total.trainable === 0)
    throw new UsageError(
      `${c.method}: with these options it has nothing to train. ${REMEDY[c.method] ?? 'Give it others, or take another method'}`,
    );
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
    const again = args.filter((a) => a !== '--resume').map(quoted);
    return console.error(`Stopped after step ${run.step} of ${run.steps}. To go on: tinypeft train ${again.join(' ')} --resume`);
  }
  const written = await write(run, job, c, engine);
  await rm(join(c.out, STATE), { force: true });
  const result = { method: c.method, trainable: total.trainable, ...run.summary, ...written };
  console.log(table(result, job));
  if (json) console.log(JSON.stringify(result));
}

/** What trains the weights themselves, or packs those of a GGUF file otherwise than they are, needs them as numbers. */
const wholeNumbers = (c: TrainConfig): boolean =>
  c.method === 'full' || (c.model.endsWith('.gguf') && (c.quantize !== 'none' || c.method === 'qlora'));

/** As a shell reads it. */
const quoted = (arg: string): string => (/^[\w@%+=:,./-]+$/.test(arg) ? arg : `'${arg.replaceAll("'", "'\\''")}'`);

/** The method with its options; null for full fine-tuning. */
function methodOf(c: TrainConfig): (() => Transform) | null {
  const { seed, options } = c;
  if (c.method === 'full') {
    const [name] = Object.keys(options);
    if (name !== undefined) throw new UsageError(`full fine-tuning has no options, got ${name}`);
    if (c.quantize !== 'none') throw new UsageError('full trains every weight, and packed weights cannot be trained; leave quantize out');
    if (c.format === 'peft')
      throw new UsageError('full fine-tuning is no adapter of Hugging Face PEFT; leave format out, then tinypeft merge');
    return null;
  }
  if (c.method === 'qlora') {
    if (c.quantize !== 'none')
      throw new UsageError('qlora packs the base itself (nf4-double); leave quantize out, or take lora with quantize');
    const own = QLORA.safeParse(options);
    if (!own.success)
      throw new UsageError(
        `qlora: its options are rank, alpha and dropout, all numbers (${own.error.issues.map((i) => `${i.path.join('.')} ${i.message}`.trim()).join('; ')}). For others: --method lora --quantize nf4-double`,
      );
    const given = Object.fromEntries(Object.entries(own.data).filter(([, v]) => v !== undefined));
    return () => qlora({ seed, ...given });
  }
  const program = programs.find((p) => p.name === c.method);
  if (program !== undefined)
    throw new UsageError(`method: ${c.method} is a program of several stages (${program.says}), not one training: see ${program.file}`);
  const listed = methods.find((m) => m.name === c.method);
  if (listed === undefined)
    throw new UsageError(
      `method: there is no ${c.method}. Nearest: ${nearest(
        c.method,
        methods.map((m) => m.name),
      ).join(', ')}. All: tinypeft methods, the first table`,
    );
  try {
    const made = listed.configured({ seed, ...options });
    if (c.format === 'peft') {
      const names = made.parts.map((p) => p.method.name);
      if (overExperts(names[0]!))
        throw new RangeError(
          `format: a folder of Hugging Face PEFT has ${c.method} over LoRAs that were trained before, and here it begins with experts drawn at random; leave format out`,
        );
      if (names.some((name) => !IN_PEFT.has(name)))
        throw new RangeError(
          `format: Hugging Face PEFT has no file for ${c.method}; leave format out, and it is written as tinypeft's own`,
        );
    }
    return () => made;
  } catch (e) {
    throw new UsageError((e as Error).message, { cause: e });
  }
}

/** Whether its files are folders of experts: X-LoRA, Arrow. */
const overExperts = (method: string): boolean => PEFT_FORMATS.some((f) => f.method === method && f.over !== undefined);

/** The base packed, the head on it, the method attached. */
async function prepared(
  job: Job,
  { model }: Opened,
  method: (() => Transform) | null,
  c: TrainConfig,
  engine: Engine,
  calibration: Job['calibration'],
): Promise<Model> {
  const headed = job.headed(packed(model, c.quantize), rng(c.seed).split('head'));
  if (method === null) return unfreeze(headed, () => true);
  const transform = method();
  const looked = { at: false };
  const env: Env = {
    engine,
    get batches() {
      looked.at = true;
      return calibration.batches;
    },
    loss: calibration.loss,
    seed: c.seed,
  };
  const attached = (await transform.prepare(headed, env))(headed);
  const theirs = transform.parts.every(({ method: m }) => IN_PEFT.has(m.name));
  const untellable = c.quantize !== 'none' && applied(attached).replaced.size > 0; // a start taken out of packed weights is no file of PEFT
  if (looked.at && (c.format === 'own' || !theirs || untellable))
    console.error(
      `adapter  ${c.method} looks at data before it attaches, and files of this library's own do not hold what it found: tinypeft will not open this adapter again, only a program can (loadAdapter onto the attached model)`,
    );
  return attached;
}

/** The share kept aside, drawn by the seed; of one record of prose, its end. */
function split(records: readonly TextRecord[], measured: readonly TextRecord[] | null, c: TrainConfig): Texts {
  if (measured !== null) return { train: records, held: measured };
  if (records.length === 1 && records[0]!.kind === 'text') {
    const { text } = records[0]!;
    const place = Math.floor(text.length * (1 - c.held));
    const blank = text.slice(0, place).search(/\s\S*$/); // between two words, and so never inside a character
    const at = c.held === 0 || blank <= 0 ? place : blank;
    return { train: [{ kind: 'text', text: text.slice(0, at) }], held: c.held === 0 ? [] : [{ kind: 'text', text: text.slice(at) }] };
  }
  const n = Math.floor(records.length * c.held);
  const order = rng(c.seed).split('held').permutation(records.length);
  return { train: order.slice(n).map((k) => records[k]!), held: order.slice(0, n).map((k) => records[k]!) };
}

/** What may differ in a resumed run: it changes no number. */
const FREE: ReadonlySet<string> = new Set(['save', 'format', 'budget']);

/** Writes down the configuration, or compares it with that of the run to go on with. */
async function begin(c: TrainConfig, resume: boolean): Promise<void> {
  const [path, state] = [join(c.out, CONFIG), join(c.out, STATE)];
  const there = await access(state).then(
    () => true,
    () => false,
  );
  if (!resume) {
    if (there)
      throw new UsageError(
        `${c.out}: holds an interrupted run; --resume goes on with it. To start anew, name another --out, or delete ${state}`,
      );
    await mkdir(c.out, { recursive: true }).catch((e: NodeJS.ErrnoException) => {
      if (e.code === 'EEXIST' || e.code === 'ENOTDIR')
        throw new UsageError(`--out ${c.out}: it, or a part of it, is a file; name a folder`);
      throw e.code === 'EACCES' || e.code === 'EROFS' ? new UsageError(`--out ${c.out}: cannot be made (${e.code})`) : e;
    });
    return writeAtomic(path, [new TextEncoder().encode(`${JSON.stringify(c, null, 2)}\n`)]);
  }
  const before = there ? await readFile(path, 'utf8').catch(() => null) : null;
  if (before === null) throw new UsageError(`--resume: there is no interrupted run in ${c.out}; start one without --resume`);
  const then = parseJson(before);
  if (!isJsonObject(then)) throw new Error(`${path}: is not the configuration of a run; put back what it was, or start anew elsewhere`);
  const changed = Object.entries(c).filter(([k, v]) => !FREE.has(k) && JSON.stringify(then[k]) !== JSON.stringify(v));
  if (changed.length > 0)
    throw new UsageError(
      `--resume: the interrupted run had ${changed.map(([k]) => `${k} ${JSON.stringify(then[k])}`).join(', ')}; give the same, or name another --out and start anew`,
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
  const saved = await replaced(folder, async (fresh) => {
    const answer = await save(run.model, fresh, c, engine, job);
    await writePacking(fresh, c.method === 'qlora' ? QLORA_PACKING : c.quantize);
    if (job.labels !== null) await writeAtomic(join(fresh, LABELS_FILE), [new TextEncoder().encode(`${JSON.stringify(job.labels)}\n`)]);
    return answer;
  });
  return { adapter: folder, ...saved, curve };
}

/**
 * Replaces a folder by one that is written beside it first. Killed between the two renames, what was there before is whole in `….old`, and the
 * state to resume from is there still: it is removed last.
 */
async function replaced<T>(folder: string, write: (fresh: string) => Promise<T>): Promise<T> {
  const [parent, name] = [dirname(folder), basename(folder)];
  const [fresh, old] = ['tmp', 'old'].map((what) => join(parent, `.${name}.${randomBytes(6).toString('hex')}.${what}`)) as [string, string];
  const answer = await write(fresh);
  await rename(folder, old).catch((e: NodeJS.ErrnoException) => {
    if (e.code !== 'ENOENT') throw e;
  });
  await rename(fresh, folder);
  for (const left of await readdir(parent))
    if (left.startsWith(`.${name}.`)) await rm(join(parent, left), { recursive: true, force: true });
  return answer;
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
  if (c.format === 'own' || c.method === 'full' || overExperts(c.method)) return own();
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
