// The training loop: steps, evaluation now and then, early stopping, progress, and an orderly end when asked to stop.
import { size } from '../core/shape.ts';
import type { TrainingState } from './state.ts';
import { type Batch, isList, type StepReport, type Trainer } from './trainer.ts';

/** What one step is taken on: a batch, or micro-batches taken together. */
export type Portion<B> = Batch<B> | readonly Batch<B>[];
/** Batches in order, or the batch for a step (from 1): with a function, a resumed training sees the batches it would have seen. */
export type Batches<B> = Iterable<Portion<B>> | AsyncIterable<Portion<B>> | ((step: number) => Portion<B> | Promise<Portion<B>>);

export interface FitOptions<B> {
  readonly batches: Batches<B>;
  /** Train up to this step (the trainer's total). One of the two must be given unless `batches` ends. */
  readonly until?: number;
  readonly evaluation?: Evaluation<B>;
  readonly earlyStopping?: EarlyStopping;
  /** Called after every step; what it answers is awaited. */
  readonly onStep?: (event: StepEvent) => void | Promise<void>;
  /** Ends after the step that is running. The trainer can go on, or be saved, afterwards. */
  readonly signal?: AbortSignal;
  /** How many tokens a batch holds: the number of its `ids`, or of its first part's rows. */
  readonly tokens?: (batch: Batch<B>) => number;
}
export interface Evaluation<B> {
  /** Evaluate after every n steps, and after the last one. */
  readonly every: number;
  readonly batches: () => Iterable<Batch<B>> | AsyncIterable<Batch<B>>;
}
export interface EarlyStopping {
  /** How many evaluations in a row may pass without a better one. */
  readonly patience: number;
  /** How much lower the loss must be to count as better (0). */
  readonly minDelta?: number;
}

export interface StepEvent extends StepReport {
  readonly total: number; // the step this run ends at; Infinity when batches decide
  readonly validation: number | null; // loss, when this step was followed by an evaluation
  readonly tokensPerSecond: number;
  readonly eta: number; // seconds to the end at the pace so far; Infinity without an end
}

export type Ending = 'done' | 'no more batches' | 'early stop' | 'aborted';
export interface Fitted {
  readonly ending: Ending;
  /** Where the trainer stands now: after an early stop, the step of the best evaluation. */
  readonly step: number;
  readonly losses: readonly { readonly step: number; readonly loss: number }[];
  readonly validations: readonly { readonly step: number; readonly loss: number }[];
  readonly best: { readonly step: number; readonly loss: number } | null;
}

/**
 * Trains until the end, the last batch, an early stop or an abort. With early stopping, the state of the best evaluation is
 * put back at the end however training ended, except after an abort: then the last step is what resuming needs.
 */
export async function fit<M, B extends object>(t: Trainer<M, B>, options: FitOptions<B>): Promise<Fitted> {
  const { evaluation, earlyStopping, onStep, signal, tokens = tokensOf } = options;
  const until = options.until ?? t.progress.total;
  check(evaluation, earlyStopping, until, options.batches);
  const next = source(options.batches);
  const losses: { step: number; loss: number }[] = [];
  const validations: { step: number; loss: number }[] = [];
  const found: { best: { step: number; loss: number } | null; kept: TrainingState | null } = { best: null, kept: null };
  let behind = 0; // evaluations since the best
  let [seconds, seen, steps] = [0, 0, 0];

  const validate = async (step: number): Promise<number | null> => {
    if (evaluation === undefined || validations.at(-1)?.step === step) return null;
    const loss = await t.evaluate(evaluation.batches());
    validations.push({ step, loss });
    if (found.best === null || loss < found.best.loss - (earlyStopping?.minDelta ?? 0)) {
      found.best = { step, loss };
      behind = 0;
      if (earlyStopping !== undefined) found.kept = await t.state();
    } else behind++;
    return loss;
  };
  const run = async (): Promise<Ending> => {
    while (t.progress.step < until) {
      if (signal?.aborted) return 'aborted';
      const portion = await next.take(t.progress.step + 1);
      if (portion === null) return 'no more batches';
      const began = performance.now();
      const done = await t.step(portion);
      seconds += (performance.now() - began) / 1000;
      for (const batch of isList(portion) ? portion : [portion]) seen += tokens(batch);
      steps++;
      losses.push({ step: done.step, loss: done.loss });
      const due = evaluation !== undefined && (done.step % evaluation.every === 0 || done.step >= until);
      const validation = due ? await validate(done.step) : null;
      const eta = Number.isFinite(until) ? (seconds / steps) * (until - done.step) : Number.POSITIVE_INFINITY;
      await onStep?.({ ...done, total: until, validation, tokensPerSecond: seen / seconds, eta });
      if (earlyStopping !== undefined && behind >= earlyStopping.patience) return 'early stop';
    }
    return 'done';
  };
  try {
    const ending = await run();
    if (ending === 'no more batches') await validate(t.progress.step);
    if (found.kept !== null && ending !== 'aborted') await t.load(found.kept);
    return { ending, step: t.progress.step, losses, validations, best: found.best };
  } finally {
    await next.close();
  }
}

/** Tokens of a batch: its ids, or the rows of whatever comes first. */
function tokensOf<B>(batch: Batch<B>): number {
  const named = batch as Readonly<Record<string, { readonly shape: readonly number[] } | undefined>>;
  if (named.ids !== undefined) return size(named.ids.shape);
  return Object.values(named)[0]?.shape[0] ?? 0;
}

function source<B>(batches: Batches<B>): { take(step: number): Promise<Portion<B> | null>; close(): Promise<void> } {
  if (typeof batches === 'function') return { take: async (step) => batches(step), close: async () => {} };
  const iterator = Symbol.asyncIterator in batches ? batches[Symbol.asyncIterator]() : batches[Symbol.iterator]();
  return {
    take: async () => {
      const { done, value } = await iterator.next();
      return done === true ? null : value;
    },
    close: async () => {
      await iterator.return?.();
    },
  };
}

function check<B>(e: Evaluation<B> | undefined, s: EarlyStopping | undefined, until: number, batches: Batches<B>): void {
  if (e !== undefined && !(Number.isInteger(e.every) && e.every >= 1))
    throw new RangeError(`fit: evaluation.every must be a whole number of steps from 1, got ${e.every}`);
  if (s !== undefined && e === undefined)
    throw new RangeError('fit: early stopping needs an evaluation to look at; give evaluation: { every, batches }');
  if (s !== undefined && !(Number.isInteger(s.patience) && s.patience >= 1))
    throw new RangeError(`fit: earlyStopping.patience must be a whole number of evaluations from 1, got ${s.patience}`);
  if (!Number.isFinite(until) && typeof batches === 'function')
    throw new RangeError('fit: a function of the step gives batches without end; say until: n, or give the trainer total: n');
}
