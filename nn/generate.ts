// Text from a decoder: one pass over the prompt, then one token at a time against a cache of keys and values.
import type { Engine } from '../core/engine.ts';
import { iota } from '../core/ops/index.ts';
import { eq, le, where } from '../core/ops/map.ts';
import { pad, reshape } from '../core/ops/move.ts';
import type { Feed, Numbers, Plan } from '../core/plan.ts';
import { rng } from '../core/rng.ts';
import { here } from '../core/scope.ts';
import { ShapeError, show, size } from '../core/shape.ts';
import type { Store } from '../core/store.ts';
import { input, type Param, paramOf, stateOf, type Tensor, topological } from '../core/tensor.ts';
import { numberOf, pickToken } from './backbone.ts';
import { type Cache, context } from './context.ts';
import { BASE, isLayer, type Model, ofKind } from './layer.ts';
import { checkSampling, distribution, pick, type Sampling } from './sample.ts';
import { layers } from './tree.ts';

export interface DecodingOptions {
  readonly engine: Engine;
  /** New tokens per row, at most. Decides, with the prompts, how large the cache is. */
  readonly tokens: number;
  /** Where the model's parameters live: a trainer's store, to generate with the values training gave them. Default: their starting values. */
  readonly store?: Store;
  /** Inputs that methods of this model read on every pass (which adapter serves which row, say). */
  readonly feed?: Feed;
}
export interface GenerateOptions extends DecodingOptions, Sampling {
  /** Starts the draws; each row has its own. Default 0. */
  readonly seed?: number;
  /** Tokens that end a row; they are not part of the answer. */
  readonly stop?: readonly number[];
  /** Called with every token of the answer as it is made. */
  readonly onToken?: (token: number, row: number) => void;
}

/**
 * Continues a prompt (or each of several, of any lengths): the new tokens, without the prompt. Temperature 0 is greedy.
 * The same seed gives the same text. Throws before computing when a prompt is empty, holds an id that is not in the
 * vocabulary, or is longer, with the tokens asked for, than the model's positions.
 */
export async function generate(model: Model, ids: readonly number[], o: GenerateOptions): Promise<number[]>;
export async function generate(model: Model, ids: readonly (readonly number[])[], o: GenerateOptions): Promise<number[][]>;
export async function generate(model: Model, ids: readonly number[] | readonly (readonly number[])[], o: GenerateOptions) {
  checkSampling(o);
  const one = isOne(ids);
  const prompts = one ? [ids] : ids;
  const stop = new Set(o.stop ?? []);
  const draws = prompts.map((_, row) => rng(o.seed ?? 0).split(row));
  const texts = prompts.map((): number[] => []);
  const open = new Set(texts.keys());
  const d = await decoding(model, prompts, o);
  try {
    for (let n = 0; n < o.tokens && open.size > 0; n++) {
      const vocabulary = d.logits.length / prompts.length;
      for (const row of open) {
        const p = distribution(d.logits.subarray(row * vocabulary, (row + 1) * vocabulary), o);
        const token = pick(p, draws[row]!.next());
        if (stop.has(token)) {
          open.delete(row);
          continue;
        }
        texts[row]!.push(token);
        o.onToken?.(token, row);
      }
      if (n + 1 < o.tokens && open.size > 0) await d.advance(texts.map((t, row) => (open.has(row) ? t.at(-1)! : null)));
    }
  } finally {
    d.close();
  }
  return one ? texts[0]! : texts;
}
const isOne = (ids: readonly number[] | readonly (readonly number[])[]): ids is readonly number[] => !Array.isArray(ids[0]);

/** A batch of texts being continued. */
export interface Decoding {
  /** Of the next token: [B, V], row by row. */
  readonly logits: Numbers;
  /** Appends one token to each row (null leaves a row as it is, and its logits without meaning) and renews `logits`. */
  advance(tokens: readonly (number | null)[]): Promise<void>;
  /** Gives the cache back. */
  close(): void;
}

/** Lengths are rounded up to 16, 32, 64, …, so that texts of about one length share their plans. */
const bucket = (n: number): number => 2 ** Math.max(4, Math.ceil(Math.log2(n)));

/** Runs the prompts through the model and keeps their keys and values: what `generate` samples from. */
export async function decoding(model: Model, prompts: readonly (readonly number[])[], o: DecodingOptions): Promise<Decoding> {
  if (!Number.isInteger(o.tokens) || o.tokens < 1)
    throw new RangeError(`generate: tokens is ${o.tokens}; it must be a whole number from 1 upwards`);
  if (prompts.length === 0) throw new RangeError('generate: no prompt given; give one or more');
  for (const { layer } of layers(model))
    if (layer.kind === 'model' && layer.fields.causal === false)
      throw new Error('generate: this model is an encoder, whose tokens see the ones after them; generation needs a decoder');
  checkIds(prompts, vocabularyOf(model));
  const lengths = prompts.map((p) => p.length);
  const front = tokensInFront(model);
  const room = roomIn(model, front);
  checkLengths(lengths, o.tokens, room, positionsOf(model));

  const longest = Math.max(...lengths);
  const text = Math.min(bucket(longest), room);
  const columns = Math.min(bucket(Math.max(front + text, front + longest + o.tokens - 1)), room + front);
  const first = prefill(model, prompts.length, text, columns);
  const unread = Object.keys(o.feed ?? {}).find((name) => !first.reads.has(name));
  if (unread !== undefined)
    throw new RangeError(`generate: fed ${unread}, which this model does not read; it reads ${[...first.reads].join(', ')}`);
  const store = o.store ?? o.engine.store();
  const caches = [...first.slots.values()].flatMap((s) => [paramOf(s.k)!, paramOf(s.v)!]);
  const close = (): void => (o.store === undefined ? store.close() : store.forget(caches));
  const run = async (plan: Plan<'logits'>, reads: ReadonlySet<string>, feed: Feed): Promise<Numbers> =>
    (await plan.run(Object.fromEntries(Object.entries({ ...o.feed, ...feed }).filter(([name]) => reads.has(name))))).logits;

  try {
    const plan = await o.engine.compile(store, first.program);
    const padded = prompts.flatMap((p) => [...p, ...new Array<number>(text - p.length).fill(0)]);
    const mask = lengths.flatMap((n) => Array.from({ length: text }, (_, i) => (i < n ? 1 : 0)));
    const state = {
      logits: await run(plan, first.reads, { ids: padded, mask, last: lengths.map((n) => n - 1) }),
      ends: lengths,
      step: null as { plan: Plan<'logits'>; reads: ReadonlySet<string> } | null,
    };
    return {
      get logits() {
        return state.logits;
      },
      async advance(tokens) {
        checkIds([tokens.map((t) => t ?? 0)], vocabularyOf(model));
        const full = state.ends.findIndex((n, row) => tokens[row] !== null && front + n >= columns);
        if (full >= 0) throw new RangeError(`advance: row ${full} is full at ${state.ends[full]} tokens; ask decoding for more tokens`);
        if (state.step === null) {
          const next = decode(model, prompts.length, columns, first.slots);
          state.step = { plan: await o.engine.compile(store, next.program), reads: next.reads };
        }
        // A finished row writes token 0 over its last column; nothing reads what follows from it.
        const positions = state.ends.map((n, row) => (tokens[row] === null ? n - 1 : n));
        state.logits = await run(state.step.plan, state.step.reads, { ids: tokens.map((t) => t ?? 0), positions });
        state.ends = positions.map((n) => n + 1);
      },
      close,
    };
  } catch (e) {
    close();
    throw e;
  }
}

/** Where one attention layer keeps keys and values, [B, Hk, columns, D]; `before` were written by tokens a method put in front. */
interface Slot {
  readonly k: Tensor;
  readonly v: Tensor;
  readonly before: number;
}
type Slots = ReadonlyMap<string, Slot>;
interface Pass {
  readonly program: { readonly outputs: { readonly logits: Tensor }; readonly next: ReadonlyMap<Param, Tensor> };
  readonly reads: ReadonlySet<string>; // names of the inputs
}

/** A cache for one pass. A layer called twice (a method that runs the trunk twice) has a slot for each call. */
function cacheOf(filled: boolean, visit: (slot: string, k: Tensor, v: Tensor) => ReturnType<Cache['exchange']>): Cache {
  const calls = new Map<string, number>();
  return {
    filled,
    exchange(k, v) {
      const { path } = here();
      const n = calls.get(path) ?? 0;
      calls.set(path, n + 1);
      return visit(n === 0 ? path : `${path} #${n + 1}`, k, v);
    },
  };
}

const pass = (logits: Tensor, next: ReadonlyMap<Param, Tensor>): Pass => ({
  program: { outputs: { logits }, next },
  reads: new Set(topological([logits, ...next.values()]).flatMap(({ source: s }) => (s.kind === 'input' ? [s.name] : []))),
});

/** One table of zeros serves all slots of a size: nothing writes to it. */
const zeroTables = () => {
  const made = new Map<number, Float32Array>();
  return (n: number): Float32Array => {
    const z = made.get(n) ?? new Float32Array(n);
    made.set(n, z);
    return z;
  };
};

/** All prompts at once, padded at the right to `text` tokens; keys and values go to fresh slots of `columns` (null: as many as there are). */
function prefill(model: Model, rows: number, text: number, columns: number | null): Pass & { readonly slots: Slots } {
  const slots = new Map<string, Slot>();
  const next = new Map<Param, Tensor>();
  const zeros = zeroTables();
  const cache = cacheOf(false, (name, k, v) => {
    const s = k.shape[2]!;
    const keep = (x: Tensor): Tensor => {
      const shape = x.shape.with(2, columns ?? s);
      const slot = stateOf({ shape, value: zeros(size(shape)), lr: 1, decay: false, active: false });
      next.set(paramOf(slot)!, pad(x, 2, 0, (columns ?? s) - s));
      return slot;
    };
    slots.set(name, { k: keep(k), v: keep(v), before: s - text });
    return { k, v };
  });
  const last = input('last', [rows]);
  const y = model(
    { ids: input('ids', [rows, text]) },
    context(text, { cache, causal: true, keyMask: input('mask', [rows, text]), only: last }),
  );
  if (y.shape.length !== 3)
    throw new ShapeError(
      `generate: this model answers ${show(y.shape)}, not logits [B, T, V]; it needs a language model, not a classifier`,
    );
  const logits = y.shape[1] === 1 ? y : pickToken(y, last); // a model of another make may not heed `only`
  return { ...pass(logits, next), slots };
}

/** One token per row, written at its own column; columns after it are not read. */
function decode(model: Model, rows: number, columns: number, slots: Slots): Pass {
  const next = new Map<Param, Tensor>();
  const positions = input('positions', [rows, 1]);
  const cache = cacheOf(true, (name, k, v) => {
    const slot = slots.get(name);
    if (slot === undefined)
      throw new Error(`generate: ${name} attends when decoding but did not when the prompt was read; a method must do the same in both`);
    const column = positions.add(slot.before); // [B, 1]
    const now = eq(reshape(iota(columns), [columns, 1]), reshape(column, [rows, 1, 1, 1])); // [B, 1, columns, 1]
    const put = (old: Tensor, x: Tensor): Tensor => {
      const written = where(now, x, old);
      next.set(paramOf(old)!, written);
      return written;
    };
    return { k: put(slot.k, k), v: put(slot.v, v), keyMask: le(iota(columns), column) };
  });
  return pass(model({ ids: input('ids', [rows, 1]) }, context(1, { cache, causal: true, positions })), next);
}

/** The longest text of the bare model; unlimited where its trunk does not say. */
function positionsOf(model: Model): number {
  for (const { layer } of layers(model)) {
    const n = layer.kind === 'trunk' ? numberOf(layer, 'longest') : null;
    if (n !== null) return n;
  }
  return Infinity;
}

// What methods take of the positions is asked of the model itself, by writing down passes that are never run.
const tokensInFront = (model: Model): number => Math.max(0, ...[...prefill(model, 1, 1, null).slots.values()].map((s) => s.before));

/** The longest text that the model with its methods accepts. */
function roomIn(model: Model, front: number): number {
  const most = positionsOf(model) - front;
  const accepts = (n: number): boolean => {
    try {
      prefill(model, 1, n, null);
      return true;
    } catch (e) {
      if (e instanceof ShapeError) return false;
      throw e;
    }
  };
  if (most === Infinity || accepts(most)) return most;
  let [fits, not] = [1, most];
  while (not - fits > 1) {
    const middle = Math.floor((fits + not) / 2);
    if (accepts(middle)) fits = middle;
    else not = middle;
  }
  return fits;
}

/** Rows of the table that the model looks tokens up in. */
function vocabularyOf(model: Model): number {
  for (const { path, layer } of layers(model)) {
    if (path !== 'embed') continue;
    const [base, weight] = [layer.fields[BASE], layer.fields.weight];
    if (!isLayer(base) && isLayer(weight)) return ofKind(weight, 'weight')().shape[0]!;
  }
  return Infinity;
}

function checkIds(prompts: readonly (readonly number[])[], vocabulary: number): void {
  for (const [row, p] of prompts.entries()) {
    if (p.length === 0)
      throw new RangeError(`generate: prompt ${row} is empty; start it with one token or more (a beginning-of-text token, say)`);
    const at = p.findIndex((id) => !Number.isInteger(id) || id < 0 || id >= vocabulary);
    if (at >= 0)
      throw new RangeError(
        `generate: prompt ${row} has ${p[at]} at place ${at}, but this model's tokens are 0 … ${vocabulary - 1}; was the text encoded for another model?`,
      );
  }
}

/** Says by how much prompt and new tokens are too long. The last token made needs no position. */
function checkLengths(lengths: readonly number[], tokens: number, room: number, positions: number): void {
  const row = lengths.indexOf(Math.max(...lengths));
  const over = lengths[row]! + tokens - 1 - room;
  if (over <= 0) return;
  const taken = room < positions ? `, ${positions - room} of them taken by a prompt or prefix` : '';
  const fits = room - lengths[row]! + 1;
  throw new RangeError(
    `generate: prompt ${row} of ${lengths[row]} tokens and ${tokens} new ones are ${over} too many: this model has ${positions} positions${taken}. ${
      fits > 0 ? `Ask for at most ${fits} tokens, or drop the first ${over} of the prompt` : `Drop the first ${over} tokens of the prompt`
    }`,
  );
}
