// What `npm start` runs: features of the frozen encoder once, a linear probe on them, and the tuning of the encoder with one seed.
import type { Engine } from '../core/engine.ts';
import { crossEntropy } from '../core/ops/fused.ts';
import { eq } from '../core/ops/map.ts';
import { argmax } from '../core/ops/reduce.ts';
import { rng } from '../core/rng.ts';
import { input, type Tensor } from '../core/tensor.ts';
import { type Bucketing, batchOf, type Encoded, inBuckets, realTokens, rowsOf, type TextBatch } from '../io/batches.ts';
import { breathe } from '../io/interrupt.ts';
import { progress } from '../io/progress.ts';
import { type Extra, readState, saveState } from '../io/state.ts';
import { type Context, context } from '../nn/context.ts';
import { pool } from '../nn/heads.ts';
import type { Layer, Model } from '../nn/layer.ts';
import { newLinear } from '../nn/linear.ts';
import { accuracy, classify } from '../nn/losses.ts';
import { adam } from '../optim/adam.ts';
import { adamw } from '../optim/adamw.ts';
import { clipByNorm } from '../optim/clip.ts';
import { fit } from '../optim/fit.ts';
import { linear, warmup } from '../optim/schedule.ts';
import { type Fed, trainer } from '../optim/trainer.ts';

export interface Running {
  readonly engine: Engine;
  readonly signal: AbortSignal;
}
/** Mean-pooled hidden states [D] by text. */
export type Features = ReadonlyMap<Encoded, Float32Array>;

/** The frozen encoder's answer to every text, computed once. `onBatch` hears what was added. Null when aborted. */
export async function features(
  model: Model,
  texts: readonly Encoded[],
  how: Bucketing,
  { engine, signal, onBatch }: Running & { readonly onBatch: (texts: number) => void },
): Promise<Features | null> {
  const store = engine.store();
  const found = new Map<Encoded, Float32Array>();
  try {
    for (const group of inBuckets(texts, how)) {
      const { ids, keyMask } = batchOf(group, how.multiple);
      const batch = { ids: input('ids', ids.shape), keyMask: input('keyMask', keyMask.shape) };
      const x = pool(model(batch, context(ids.shape[1]!)), batch.keyMask, 'mean'); // [B, D]
      const plan = await engine.compile(store, { outputs: { x } });
      const numbers = (await plan.run({ ids: ids.data, keyMask: keyMask.data })).x;
      const width = numbers.length / group.length;
      for (const [k, text] of group.entries()) found.set(text, Float32Array.from(numbers.subarray(k * width, (k + 1) * width)));
      onBatch(group.length);
      await breathe();
      if (signal.aborted) return null;
    }
  } finally {
    store.close();
  }
  return found;
}

/** Logistic regression on features: what the frozen encoder knows already. */
export interface Probe {
  readonly head: Layer<'linear'>; // trained
  readonly accuracy: number;
  readonly seconds: number;
}
interface Row {
  readonly x: Tensor;
  readonly labels: Tensor;
}
/** All of the data in every step, to convergence; the L2 penalty was chosen by validation (Adam's decay is one, AdamW's is not). */
const PROBE = { steps: 300, lr: 0.02, weightDecay: 0.015 };

export async function probe(
  known: Features,
  data: { readonly train: readonly Encoded[]; readonly held: readonly Encoded[]; readonly classes: number },
  { engine, seed }: { readonly engine: Engine; readonly seed: number },
): Promise<Probe> {
  const table = (texts: readonly Encoded[]): { x: Fed; labels: Fed } => {
    const rows = texts.map((t) => known.get(t)!);
    const x = new Float32Array(rows.length * rows[0]!.length);
    for (const [k, r] of rows.entries()) x.set(r, k * r.length);
    return { x: { data: x, shape: [rows.length, rows[0]!.length] }, labels: { data: texts.map((t) => t.label), shape: [rows.length] } };
  };
  const train = table(data.train);
  const head = newLinear(train.x.shape[1]!, data.classes, rng(seed).split('probe'));
  const loss = (m: Layer<'linear'>, { x, labels }: Row, ctx: Context): Tensor => crossEntropy(m(x, ctx), labels);
  const right = (m: Layer<'linear'>, { x, labels }: Row, ctx: Context): Tensor => eq(argmax(m(x, ctx)), labels).mean();
  const { steps, lr, weightDecay } = PROBE;
  await using t = await trainer(head, { engine, loss, total: steps, optimizer: adam({ lr, weightDecay }), schedule: linear() });
  const began = performance.now();
  for (let k = 0; k < steps; k++) await t.step(train);
  const seconds = (performance.now() - began) / 1000;
  return { head: await t.model(), accuracy: await t.evaluate([table(data.held)], right), seconds };
}

/** A value after a step. */
export type Points = readonly { readonly x: number; readonly y: number }[];
export interface Tuned {
  readonly model: Model;
  readonly accuracy: number; // at the end, on the texts kept aside
  readonly seconds: number; // of steps, measuring left out
  readonly tokens: number; // trained on, padding left out
  readonly losses: Points;
  readonly accuracies: Points; // after every epoch
}
export interface Tuning extends Running {
  readonly lr: number;
  readonly steps: number;
  readonly perEpoch: number;
  readonly batch: (step: number) => TextBatch;
  readonly held: readonly TextBatch[];
  readonly seed: number;
  readonly title: string;
  /** Where the state goes when training ends or is interrupted. */
  readonly state: string;
  readonly resume: boolean;
}

/** A TextBatch as tensors. */
interface Fields {
  readonly ids: Tensor;
  readonly keyMask: Tensor;
  readonly labels: Tensor;
}
/** Trains what is trainable in a classifier. On an abort the state is saved and the answer is the step reached. */
export async function tune(model: Model, o: Tuning): Promise<Tuned | number> {
  await using t = await trainer<Model, Fields>(model, {
    engine: o.engine,
    loss: classify,
    seed: o.seed,
    total: o.steps,
    weigh: rowsOf,
    clip: clipByNorm(1),
    optimizer: adamw({ lr: o.lr, weightDecay: 0.01 }),
    schedule: warmup(Math.ceil(o.steps / 20), linear()),
  });
  const earlier = o.resume ? await stateAt(o.state) : null;
  if (earlier !== null) await t.load(earlier.state);
  const kept = record(earlier?.extra);
  const view = progress({ title: o.title });
  const clock = { began: 0 };
  const run = await fit(t, {
    until: o.steps,
    signal: o.signal,
    tokens: realTokens,
    batches: (step) => {
      clock.began = performance.now();
      return o.batch(step);
    },
    onStep: async (e) => {
      kept.seconds += (performance.now() - clock.began) / 1000;
      kept.tokens += realTokens(o.batch(e.step));
      kept.losses.push(e.loss);
      view.update(e);
      if (e.step % o.perEpoch === 0 || e.step === o.steps) kept.accuracies.push([e.step, await t.evaluate(o.held, accuracy)]);
      await breathe();
    },
  });
  view.stop();
  await saveState(await t.state(), o.state, { ...kept });
  if (run.ending === 'aborted' && run.step < o.steps) return run.step;
  const { seconds, tokens, losses, accuracies } = kept;
  return {
    model: await t.model(),
    accuracy: accuracies.at(-1)![1],
    seconds,
    tokens,
    losses: losses.map((y, k) => ({ x: k + 1, y })),
    accuracies: accuracies.map(([x, y]) => ({ x, y })),
  };
}

const stateAt = (path: string): Promise<Awaited<ReturnType<typeof readState>> | null> =>
  readState(path).catch((e: NodeJS.ErrnoException) => {
    if (e.code === 'ENOENT') return null;
    throw e;
  });

/** What is kept beside the trainer's state, so that a resumed run tells the whole story. */
interface Kept {
  seconds: number;
  tokens: number;
  readonly losses: number[];
  readonly accuracies: [step: number, accuracy: number][];
}
function record(extra: Extra | undefined): Kept {
  const { seconds, tokens, losses, accuracies } = (extra ?? {}) as Partial<Kept>; // our own file: written below by saveState
  return { seconds: seconds ?? 0, tokens: tokens ?? 0, losses: [...(losses ?? [])], accuracies: [...(accuracies ?? [])] };
}
