// Texts of different lengths as batches: sorted into buckets, so that little is padding and few shapes need a plan.
import { rng } from '../core/rng.ts';
import type { Fed } from '../optim/trainer.ts';

/** A text as ids, with its label. */
export interface Encoded {
  readonly ids: Int32Array;
  readonly label: number;
}
export interface TextBatch {
  readonly ids: Fed; // [B, T], 0 where there is no token
  readonly keyMask: Fed; // [B, T], 1 for tokens
  readonly labels: Fed; // [B]
}
export interface Bucketing {
  readonly rows: number; // B
  /** Widths T are multiples of this. */
  readonly multiple: number;
}

/** The longest of some texts, rounded up to a multiple but not beyond `most`, the positions a model has (unless a text is longer itself). */
export function widthOf(texts: readonly Pick<Encoded, 'ids'>[], multiple: number, most = Number.POSITIVE_INFINITY): number {
  const longest = Math.max(1, ...texts.map((t) => t.ids.length));
  return Math.max(longest, Math.min(Math.ceil(longest / multiple) * multiple, most));
}

/** Texts as one batch, as wide as the longest of them, rounded up to a multiple but not beyond `most`. */
export function batchOf(texts: readonly Encoded[], multiple: number, most = Number.POSITIVE_INFINITY): TextBatch {
  const width = widthOf(texts, multiple, most);
  const ids = new Int32Array(texts.length * width);
  const keyMask = new Float32Array(texts.length * width);
  for (const [k, t] of texts.entries()) {
    ids.set(t.ids, k * width);
    keyMask.fill(1, k * width, k * width + t.ids.length);
  }
  const shape = [texts.length, width];
  return {
    ids: { data: ids, shape },
    keyMask: { data: keyMask, shape },
    labels: { data: Int32Array.from(texts, (t) => t.label), shape: [texts.length] },
  };
}

/** Every text once, shortest bucket first (inside a bucket in the order given), in groups of B; the last may be smaller. */
export function inBuckets<T extends Pick<Encoded, 'ids'>>(texts: readonly T[], { rows, multiple }: Bucketing): T[][] {
  const sorted = texts.toSorted((a, b) => Math.ceil(a.ids.length / multiple) - Math.ceil(b.ids.length / multiple));
  return Array.from({ length: Math.ceil(sorted.length / rows) }, (_, k) => sorted.slice(k * rows, (k + 1) * rows));
}
/** The same as batches: for measuring. */
export const inLengthOrder = (texts: readonly Encoded[], how: Bucketing): TextBatch[] =>
  inBuckets(texts, how).map((group) => batchOf(group, how.multiple));

/** Makes a batch of a group of texts, as wide as the longest, rounded up to a multiple. */
export type Batching<T, B> = (group: readonly T[], multiple: number) => B;

/**
 * Batches for training, as a function of the step (from 1): in every epoch each text comes once, with others of its bucket, and
 * the batches come in random order. The same seed gives the same batches, so that a resumed training sees what it would have seen.
 */
export const epochs = (texts: readonly Encoded[], how: Bucketing & { readonly seed: number }): Epochs<TextBatch> =>
  epochsOf(texts, how, batchOf);
export interface Epochs<B> {
  readonly perEpoch: number;
  at(step: number): B;
}
/** The same for texts and batches of another kind. */
export function epochsOf<T extends Pick<Encoded, 'ids'>, B>(
  texts: readonly T[],
  how: Bucketing & { readonly seed: number },
  make: Batching<T, B>,
): Epochs<B> {
  if (texts.length === 0) throw new RangeError('epochs: there are no texts to train on');
  if (!(Number.isInteger(how.rows) && how.rows >= 1))
    throw new RangeError(`epochs: a batch of ${how.rows} rows; it must be a whole number from 1`);
  const perEpoch = Math.ceil(texts.length / how.rows);
  const made = new Map<number, B[]>(); // the current epoch only
  const epoch = (k: number): B[] => {
    const known = made.get(k);
    if (known !== undefined) return known;
    const r = rng(how.seed).split('epochs').split(k);
    const order = r.split('texts').permutation(texts.length);
    const groups = inBuckets(
      order.map((i) => texts[i]!),
      how,
    );
    const shuffled = r
      .split('batches')
      .permutation(groups.length)
      .map((i) => make(groups[i]!, how.multiple));
    made.clear();
    made.set(k, shuffled);
    return shuffled;
  };
  return { perEpoch, at: (step) => epoch(Math.floor((step - 1) / perEpoch))[(step - 1) % perEpoch]! };
}

/** Tokens of a batch, padding not counted. */
export const realTokens = ({ keyMask }: Pick<TextBatch, 'keyMask'>): number => {
  let n = 0;
  for (let i = 0; i < keyMask.data.length; i++) n += keyMask.data[i]!;
  return n;
};
export const rowsOf = ({ labels }: Pick<TextBatch, 'labels'>): number => labels.data.length;
