// The training itself: steps with a progress bar, measurements, states saved now and then, and an orderly end.
import { z } from 'zod';
import type { Engine } from '../../core/engine.ts';
import { breathe } from '../../io/interrupt.ts';
import { pageFolder } from '../../io/pageFolder.ts';
import type { ProgressView } from '../../io/progress.ts';
import { type Extra, readState, saveState } from '../../io/state.ts';
import type { Model } from '../../nn/layer.ts';
import { adamw } from '../../optim/adamw.ts';
import { adamw8bit } from '../../optim/adamw8bit.ts';
import { clipByNorm } from '../../optim/clip.ts';
import { fit, type Portion } from '../../optim/fit.ts';
import type { Optimizer } from '../../optim/optimizer.ts';
import { paged } from '../../optim/paged.ts';
import { constant, cosine, linear, type Schedule, warmup } from '../../optim/schedule.ts';
import { sgd } from '../../optim/sgd.ts';
import { type Batch, type Fed, trainer } from '../../optim/trainer.ts';
import type { TrainConfig } from './config.ts';
import type { Job, Parts } from './task.ts';

type Points = readonly { readonly x: number; readonly y: number }[];
export interface Run {
  readonly model: Model;
  readonly step: number;
  readonly steps: number;
  readonly losses: Points;
  readonly measured: Points;
  readonly summary: {
    readonly steps: number;
    readonly seconds: number;
    readonly tokensPerSecond: number;
    readonly loss: number | null; // of the last step
    readonly before: number | null; // measure on the texts kept aside
    readonly after: number | null;
  };
}
export interface Running {
  readonly engine: Engine;
  readonly signal: AbortSignal;
  readonly state: string;
  readonly resume: boolean;
  readonly view: ProgressView;
}
/** What is kept beside the trainer's state, so that a resumed run tells the whole story. */
interface Kept {
  seconds: number;
  tokens: number;
  readonly losses: [step: number, loss: number][];
  readonly measured: [step: number, value: number][];
}

/** Pages lie in the folder of the run: where the system's folder for temporary files is in memory, nothing would be saved there. */
const inPages = (optimizer: Optimizer, c: TrainConfig): Optimizer =>
  paged(optimizer, { budget: c.budget * 2 ** 20, spill: pageFolder(c.out) });
const OPTIMIZERS: Readonly<Record<TrainConfig['optimizer'], (c: TrainConfig) => Optimizer>> = {
  adamw: ({ lr, weightDecay }) => adamw({ lr, weightDecay }),
  adamw8bit: ({ lr, weightDecay }) => adamw8bit({ lr, weightDecay }),
  paged: (c) => inPages(adamw({ lr: c.lr, weightDecay: c.weightDecay }), c),
  paged8bit: (c) => inPages(adamw8bit({ lr: c.lr, weightDecay: c.weightDecay }), c),
  sgd: ({ lr, weightDecay }) => sgd({ lr, weightDecay, momentum: 0.9 }),
};
const SCHEDULES: Readonly<Record<TrainConfig['schedule'], () => Schedule>> = { linear, cosine, constant };

export async function runOf(job: Job, model: Model, c: TrainConfig, o: Running): Promise<Run> {
  const { steps } = job;
  await using t = await trainer<Model, Parts>(model, {
    engine: o.engine,
    loss: job.loss,
    weigh: job.weigh,
    accumulate: c.accumulate,
    seed: c.seed,
    total: steps,
    optimizer: OPTIMIZERS[c.optimizer](c),
    schedule: warmup(Math.ceil(steps * c.warmup), SCHEDULES[c.schedule]()),
    ...(c.clip === null ? {} : { clip: clipByNorm(c.clip) }),
  });
  const earlier = o.resume ? await readState(o.state) : null;
  if (earlier !== null) await t.load(earlier.state);
  const kept = record(earlier?.extra, o.state);
  const measure = async (step: number): Promise<void> => {
    if (job.held.length > 0) kept.measured.push([step, await t.evaluate(job.held, job.measured)]);
  };
  if (earlier === null) await measure(0);
  const every = c.evaluate ?? Math.max(1, Math.ceil(steps / 10));
  const clock = { began: performance.now() };
  const run = await fit(t, {
    until: steps,
    signal: o.signal,
    tokens: job.tokens,
    batches: (step) => {
      clock.began = performance.now();
      return portion(job.batch(step), c.accumulate);
    },
    onStep: async (e) => {
      kept.seconds += (performance.now() - clock.began) / 1000;
      kept.tokens += job.tokens(job.batch(e.step));
      kept.losses.push([e.step, e.loss]);
      o.view.update(e);
      if (e.step % every === 0 || e.step === steps) await measure(e.step);
      if (e.step % c.save === 0) await saveState(await t.state(), o.state, { ...kept });
      await breathe();
    },
  });
  o.view.stop();
  await saveState(await t.state(), o.state, { ...kept }); // after the last step too: should writing the adapter fail, --resume writes it
  return {
    model: await t.model(),
    step: run.step,
    steps,
    losses: points(kept.losses),
    measured: points(kept.measured),
    summary: {
      steps: run.step,
      seconds: kept.seconds,
      tokensPerSecond: kept.seconds === 0 ? 0 : kept.tokens / kept.seconds,
      loss: kept.losses.at(-1)?.[1] ?? null,
      before: kept.measured.at(0)?.[1] ?? null,
      after: kept.measured.at(-1)?.[1] ?? null,
    },
  };
}
/** A batch that does not cut evenly (an epoch's last) as micro-batches of nearly equal rows; any other as it is, for the trainer to cut. */
function portion(batch: Batch<Parts>, micro: number): Portion<Parts> {
  const rows = batch.ids.shape[0]!;
  if (rows % micro === 0) return batch;
  const n = Math.min(micro, rows);
  const part = ({ data, shape }: Fed, from: number, to: number): Fed => {
    const each = data.length / rows;
    return { data: data.slice(from * each, to * each), shape: [to - from, ...shape.slice(1)] };
  };
  return Array.from({ length: n }, (_, k) => {
    const [from, to] = [Math.floor((k * rows) / n), Math.floor(((k + 1) * rows) / n)];
    return Object.fromEntries(Object.entries(batch).map(([name, f]) => [name, part(f as Fed, from, to)])) as unknown as Batch<Parts>; // the same names
  });
}

const points = (list: readonly (readonly [number, number])[]): Points => list.map(([x, y]) => ({ x, y }));

const pairs = z.array(z.tuple([z.number(), z.number()]));
const KEPT = z.object({ seconds: z.number(), tokens: z.number(), losses: pairs, measured: pairs });
/** What a state file says of the run so far. */
function record(extra: Extra | undefined, path: string): Kept {
  if (extra === undefined) return { seconds: 0, tokens: 0, losses: [], measured: [] };
  const kept = KEPT.safeParse(extra);
  if (!kept.success)
    throw new Error(`${path}: is a training state, but not one of tinypeft train: it lacks seconds, tokens, losses or measured`);
  return kept.data;
}
