// The trainer: one store of parameters and moments, one plan per shape of batch, one optimizer step at a time.
import type { Engine } from '../core/engine.ts';
import type { Feed, Numbers, Plan } from '../core/plan.ts';
import { rng } from '../core/rng.ts';
import { type Shape, show, size } from '../core/shape.ts';
import { type Data, input, type Param } from '../core/tensor.ts';
import { stochastic } from '../nn/context.ts';
import { withValues } from '../nn/freeze.ts';
import type { Progress } from '../nn/hooks.ts';
import type { Field } from '../nn/layer.ts';
import { params } from '../nn/tree.ts';
import { keptApart } from './apart.ts';
import type { Clip } from './clip.ts';
import type { ShelfReport } from './keep.ts';
import type { Optimizer } from './optimizer.ts';
import {
  AUX,
  addProgram,
  applyProgram,
  type Built,
  evaluateProgram,
  inspect,
  type Loss,
  MORE,
  numberName,
  stepProgram,
  WEIGHT,
} from './program.ts';
import type { Schedule } from './schedule.ts';
import { checked, readState, type TrainingState } from './state.ts';

/** Numbers of one named part of a batch. */
export interface Fed {
  readonly data: Data | readonly number[];
  readonly shape: Shape;
}
/** What is fed for a loss that reads the tensors B. */
export type Batch<B> = { readonly [K in keyof B]: Fed };

export interface TrainerOptions<M, B> {
  readonly engine: Engine;
  /** Loss of a batch. Called once per shape of batch, with inputs; answers a recipe of one number. */
  readonly loss: Loss<M, B>;
  readonly optimizer: Optimizer;
  /** Multiplies the learning rate; constant when left out. */
  readonly schedule?: Schedule;
  readonly clip?: Clip;
  /** Micro-batches per step (1): a batch is cut into this many along its first dimension, for the same step with less memory. */
  readonly accumulate?: number;
  /** How much a micro-batch counts beside the others of its step (equally). */
  readonly weigh?: (batch: Batch<B>) => number;
  /** Starts everything random: dropout and sampled gates (0). */
  readonly seed?: number;
  /** How many steps there will be, for schedules and controllers that need to know. */
  readonly total?: number;
}

export interface StepReport {
  readonly step: number; // counted from 1
  readonly loss: number; // without penalty and aux
  readonly penalty: number;
  readonly aux: Readonly<Record<string, number>>;
  readonly norm: number | null; // of all gradients before clipping, when clipping by norm
  readonly lr: number; // before the multipliers of groups and parameters
}

export interface Trainer<M, B> extends AsyncDisposable {
  /** One optimizer step on a batch, or on several micro-batches taken together. */
  step(batch: Batch<B> | readonly Batch<B>[]): Promise<StepReport>;
  /** Mean of the loss (or of another measure) over batches, without randomness, weighed as micro-batches are. */
  evaluate(batches: Iterable<Batch<B>> | AsyncIterable<Batch<B>>, measure?: Loss<M, B>): Promise<number>;
  /** The model with the current values; or another tree that shares its parameters. */
  model(): Promise<M>;
  model<T extends Field>(tree: T): Promise<T>;
  /** Everything a bit-exact resume needs, as a copy. */
  state(): Promise<TrainingState>;
  /** Goes on from a state. Throws, changing nothing, when it is not one of this model and optimizer. */
  load(state: TrainingState): Promise<void>;
  /** Of an optimizer that keeps its states outside the engine: bytes, and pages moved. */
  readonly shelf: ShelfReport | null;
  /** Steps taken so far, and how many there will be (Infinity when not said). */
  readonly progress: Progress;
  readonly accumulate: number;
}

/** A loss or gradient that is not a finite number. The step was not applied. */
export class NonFiniteError extends Error {
  override readonly name = 'NonFiniteError';
}

/** Plans kept per trainer; as many as an engine keeps. */
const PLANS = 32;

/**
 * Prepares training of everything in `model` that is trainable. The model itself never changes: ask for `model()`.
 * Calls may overlap; they run one after the other.
 */
export async function trainer<M extends Field, B extends object>(model: M, options: TrainerOptions<M, B>): Promise<Trainer<M, B>> {
  const { engine, loss, optimizer, schedule = () => 1, clip = null, accumulate = 1, weigh = () => 1 } = options;
  const planned = options.total ?? Number.POSITIVE_INFINITY;
  if (!(Number.isInteger(accumulate) && accumulate >= 1))
    throw new RangeError(`trainer: accumulate must be a whole number from 1, got ${accumulate}`);
  const t = inspect(model, optimizer);
  const controllers = [...t.applications].flatMap(([a, at]) => (a.control === null ? [] : [{ method: a.method, own: a.control(at) }]));
  const store = engine.store();
  const apart = optimizer.keep === undefined ? null : await keptApart(t, optimizer, optimizer.keep, store);
  let cutOff: unknown = null; // what stopped a step half-way through its groups
  let taken = 0;
  let seed = options.seed ?? 0;
  let closed = false;
  let tail: Promise<unknown> = Promise.resolve();
  const inTurn = <T>(f: () => Promise<T>): Promise<T> => {
    const mine = tail.then(() => {
      if (closed) throw new Error('trainer: it was disposed of; make a new one, and load the state you kept');
      return f();
    });
    tail = mine.catch(() => {}); // whoever asked gets the error; the next in line does not
    return mine;
  };

  const compiled = async (build: () => Built): Promise<Ready> => {
    const b = build();
    return { ...b, plan: await engine.compile(store, b.program) };
  };
  const ready = recent<Ready>(PLANS);
  const plan = (key: string, build: () => Built): Promise<Ready> => ready(key, () => compiled(build));
  const parted = recent<Ready>(Number.POSITIVE_INFINITY); // as many as there are groups
  const numbered = new WeakMap<Loss<M, B>, number>(); // measures told apart by identity
  let measures = 0;
  const numberOf = (m: Loss<M, B>): number => {
    const n = numbered.get(m) ?? measures++;
    numbered.set(m, n);
    return n;
  };

  /** The multiplied learning rate, and everything else the optimizer is fed in step `step`. */
  const rates = (step: number): { lr: number; feed: Feed } => {
    const lr = optimizer.config.lr * schedule({ step, total: planned });
    if (!Number.isFinite(lr)) throw new RangeError(`trainer: the learning rate of step ${step} is ${lr}; check the schedule`);
    const feed: Record<string, number> = {};
    for (const [k, r] of t.rates.entries())
      for (const [name, v] of Object.entries(optimizer.numbers({ step, lr: lr * r.lr, decay: r.decay }))) feed[numberName(name, k)] = v;
    return { lr, feed };
  };

  const run = async (r: Ready, feed: Feed, step: number, micro: number): Promise<Readonly<Record<string, number>>> => {
    const used = Object.fromEntries(Object.entries(feed).filter(([name]) => r.inputs.has(name)));
    const drawn = rng(seed)
      .split(`step ${step} ${micro}`)
      .below(2 ** 32);
    const { numbers } = await r.plan.run(used, drawn);
    if (!Number.isFinite(numbers[0])) {
      const found = named(r.names, numbers);
      const what = Number.isFinite(found.loss ?? 0) ? 'a gradient is not a finite number' : `the loss is ${found.loss}`;
      const where = (await r.plan.diagnose(used, drawn)) ?? 'no single result is: their sum is too large';
      throw new NonFiniteError(
        `trainer: in step ${step} ${what}. First result that is not finite: ${where}. The step was not applied: the state is that of step ${step - 1}, the last good one. Lower the learning rate, clip gradients, or look at this batch`,
      );
    }
    return named(r.names, numbers);
  };

  /** The second part of a step whose optimizer keeps its states elsewhere. */
  const apply = async (reached: Iterable<Param>, feed: Feed): Promise<void> => {
    try {
      await apart?.apply(new Set(reached), async (key, build) => {
        const r = await parted(key, () => compiled(build));
        await r.plan.run(Object.fromEntries(Object.entries(feed).filter(([name]) => r.inputs.has(name))));
      });
    } catch (e) {
      cutOff = e;
      throw new Error('trainer: a step was cut off after some of its parameters had changed; load the last saved state before going on', {
        cause: e,
      });
    }
  };
  const whole = async (batch: Batch<B>, step: number): Promise<StepReport> => {
    const { lr, feed } = rates(step);
    if (apart !== null) {
      const g = await plan(`grads ${shapes(batch)}`, () => apart.gradsProgram(loss, model, inputs(batch), stochastic(), clip));
      const done = await run(g, data(batch), step, 0);
      await apply(g.reached, feed);
      return report(step, lr, done);
    }
    const r = await plan(`step ${shapes(batch)}`, () => stepProgram(loss, model, inputs(batch), stochastic(), t, optimizer, clip));
    return report(step, lr, await run(r, { ...data(batch), ...feed }, step, 0));
  };
  const inParts = async (batches: readonly Batch<B>[], step: number): Promise<StepReport> => {
    const { lr, feed } = rates(step);
    const weights = shares(batches.map(weigh));
    const sums: Record<string, number> = {};
    const reached = new Set<Param>();
    for (const [k, batch] of batches.entries()) {
      const r = await plan(`add ${shapes(batch)}`, () => addProgram(loss, model, inputs(batch), stochastic(), t));
      for (const p of r.reached)
        if (k > 0 && !reached.has(p))
          throw new Error(
            `trainer: ${t.trained.get(p)} influences the loss of micro-batch ${k} but not of the first; train on whole batches`,
          );
        else reached.add(p);
      const got = await run(r, { ...data(batch), [WEIGHT]: weights[k]!, [MORE]: k === 0 ? 0 : 1 }, step, k);
      for (const [name, v] of Object.entries(got)) sums[name] = (sums[name] ?? 0) + weights[k]! * v;
    }
    const paths = [...reached].map((p) => t.trained.get(p)).sort();
    if (apart !== null) {
      const done = await run(await plan(`clip ${paths}`, () => apart.clipProgram(reached, clip)), {}, step, batches.length);
      await apply(reached, feed);
      return report(step, lr, { ...sums, ...done });
    }
    const r = await plan(`apply ${paths}`, () => applyProgram(reached, t, optimizer, clip));
    return report(step, lr, { ...sums, ...(await run(r, feed, step, batches.length)) });
  };

  let begun = false;
  const begin = (): void => {
    if (!begun) for (const { own } of controllers) own.begin?.(planned);
    begun = true;
  };
  const control = async (): Promise<void> => {
    const at = { step: taken, total: planned };
    for (const { method, own } of controllers) {
      const written = await own.after(at, (ps) => store.read(ps));
      if (written === null) continue;
      for (const p of written.keys())
        if (!t.every.has(p))
          throw new Error(`${method}: its controller wrote a parameter that is not in the model; write only what the method brought`);
      await store.write(written);
    }
  };

  const read = async <T extends Field>(tree: T): Promise<T> =>
    withValues(tree, await store.read([...params(tree).keys()].filter((p) => t.every.has(p))));

  return {
    accumulate,
    get progress() {
      return { step: taken, total: planned };
    },
    step: (given) =>
      inTurn(async () => {
        const batches = isList(given) ? given : accumulate === 1 ? [given] : cut(given, accumulate);
        const [first, ...rest] = batches;
        if (first === undefined) throw new RangeError('trainer: a step needs a batch, got none');
        if (cutOff !== null) throw new Error('trainer: the last step was cut off half-way; load a saved state', { cause: cutOff });
        begin();
        const done = rest.length === 0 ? await whole(first, taken + 1) : await inParts(batches, taken + 1);
        taken++;
        await control();
        return done;
      }),
    evaluate: (batches, measure = loss) =>
      inTurn(async () => {
        let [total, weight] = [0, 0];
        for await (const batch of batches) {
          const r = await plan(`evaluate ${numberOf(measure)} ${shapes(batch)}`, () => evaluateProgram(measure, model, inputs(batch)));
          const used = Object.fromEntries(Object.entries(data(batch)).filter(([name]) => r.inputs.has(name)));
          const w = weigh(batch);
          total += w * (await r.plan.run(used)).numbers[0]!;
          weight += w;
        }
        if (weight === 0) throw new RangeError('trainer: evaluate was given no batches');
        return total / weight;
      }),
    model: <T extends Field>(tree?: T) => inTurn(() => read(tree ?? model)) as Promise<T & M>, // without a tree, T is M
    get shelf() {
      return apart?.shelf.report ?? null;
    },
    state: () => inTurn(() => readState(t, store, optimizer, taken, seed, apart)),
    load: (state) =>
      inTurn(async () => {
        const { values, kept } = checked(state, t, optimizer, apart === null ? null : await apart.read());
        await store.write(values);
        await apart?.write(kept);
        cutOff = null;
        taken = state.step;
        seed = state.seed;
      }),
    [Symbol.asyncDispose]: async () => {
      await tail;
      closed = true;
      store.close();
      await apart?.shelf.close();
    },
  };
}

/** A built program with its plan. */
interface Ready extends Built {
  readonly plan: Plan<'numbers'>;
}

/** Batch tensors as inputs; B says what the loss reads of them. */
export const inputs = <B extends object>(batch: Batch<B>): B =>
  Object.fromEntries(Object.entries<Fed>(batch).map(([name, { shape }]) => [name, input(name, shape)])) as unknown as B;
export const data = <B>(batch: Batch<B>): Feed => Object.fromEntries(Object.entries<Fed>(batch).map(([name, f]) => [name, f.data]));
export const shapes = <B>(batch: Batch<B>): string =>
  Object.entries<Fed>(batch)
    .map(([name, { shape }]) => `${name} ${show(shape)}`)
    .sort()
    .join(', ');
/** Several micro-batches rather than one batch. */
export const isList = <B>(b: Batch<B> | readonly Batch<B>[]): b is readonly Batch<B>[] => Array.isArray(b);
const named = (names: readonly string[], numbers: Numbers): Record<string, number> =>
  Object.fromEntries(names.map((name, k) => [name, numbers[k]!]));

function report(step: number, lr: number, n: Readonly<Record<string, number>>): StepReport {
  const aux = Object.entries(n).flatMap(([k, v]) => (k.startsWith(AUX) ? [[k.slice(AUX.length), v] as const] : []));
  return { step, lr, loss: n.loss!, penalty: n.penalty ?? 0, aux: Object.fromEntries(aux), norm: n.norm ?? null };
}

/** Weights that sum to 1. */
function shares(weights: readonly number[]): number[] {
  const sum = weights.reduce((a, b) => a + b, 0);
  if (!(sum > 0) || weights.some((w) => !(w >= 0)))
    throw new RangeError(`trainer: micro-batches need weights of 0 or more with a sum above 0, got ${weights.join(', ')}`);
  return weights.map((w) => w / sum);
}

/** A batch as n equal parts along the first dimension of everything in it. */
export function cut<B>(batch: Batch<B>, n: number): Batch<B>[] {
  const part = (name: string, { data, shape }: Fed, k: number): Fed => {
    const [rows = 0, ...rest] = shape;
    const each = rows / n;
    if (!Number.isInteger(each) || each === 0)
      throw new RangeError(`trainer: ${name} ${show(shape)} does not cut into ${n} equal micro-batches along its first dimension`);
    const per = size([each, ...rest]);
    return { data: data.slice(k * per, (k + 1) * per), shape: [each, ...rest] };
  };
  return Array.from(
    { length: n },
    (_, k) => Object.fromEntries(Object.entries<Fed>(batch).map(([name, f]) => [name, part(name, f, k)])) as unknown as Batch<B>,
  );
}

/** A memory of the last `most` values by key. */
function recent<T>(most: number): (key: string, make: () => Promise<T>) => Promise<T> {
  const entries = new Map<string, T>();
  return async (key, make) => {
    const value = entries.get(key) ?? (await make());
    entries.delete(key);
    entries.set(key, value);
    if (entries.size > most) entries.delete(entries.keys().next().value!);
    return value;
  };
}
