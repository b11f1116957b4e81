// What a training is about: language (prose, completions, conversations) or classes; batches, loss, measure and the head.
import type { Rng } from '../../core/rng.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { batchOf, type Encoded, epochsOf, inBuckets, realTokens, type TextBatch } from '../../io/batches.ts';
import { isDecoder } from '../../io/checkpoints/config.ts';
import type { SaveOptions } from '../../io/peft/save.ts';
import type { TextRecord } from '../../io/records.ts';
import { around, languageBatch, type Sequence, sequencesOf } from '../../io/sequences.ts';
import { type Context, context } from '../../nn/context.ts';
import type { Model, Batch as ModelBatch } from '../../nn/layer.ts';
import { accuracy, classify, countTargets, nextToken, nextTokenInChunks } from '../../nn/losses.ts';
import type { Batch } from '../../optim/trainer.ts';
import { UsageError } from '../usage.ts';
import type { TrainConfig } from './config.ts';
import { type Reader, withHead } from './open.ts';

export interface Texts {
  readonly train: readonly TextRecord[];
  readonly held: readonly TextRecord[];
}
/** A batch's parts as tensors: `targets` for language, `labels` for classes. */
export interface Parts {
  readonly ids: Tensor;
  readonly keyMask: Tensor;
  readonly targets: Tensor;
  readonly labels: Tensor;
}
export interface Job {
  readonly described: string;
  /** What `loss after` means: loss, or accuracy. */
  readonly measure: string;
  readonly steps: number;
  readonly batch: (step: number) => Batch<Parts>;
  readonly held: readonly Batch<Parts>[];
  readonly loss: (m: Model, batch: Parts, ctx: Context) => Tensor;
  readonly measured: (m: Model, batch: Parts, ctx: Context) => Tensor;
  readonly weigh: (batch: Batch<Parts>) => number;
  readonly tokens: (batch: Batch<Parts>) => number;
  readonly headed: (model: Model, r: Rng) => Model;
  readonly labels: readonly string[] | null;
  readonly peftTask: NonNullable<SaveOptions['task']>;
  /** For methods that look at data before they attach. */
  readonly calibration: { readonly batches: readonly ModelBatch[]; readonly loss: (m: Model, batch: ModelBatch) => Tensor };
}
type Kind = Pick<TrainConfig, 'rows' | 'longest' | 'seed' | 'epochs' | 'steps' | 'chunk'> & {
  /** The classes in the order of a classifier that exists; all that the data have, when not given. */
  readonly labels?: readonly string[] | null;
};
/** Widths of batches are multiples of this. */
const MULTIPLE = 16;
/** Batches that data-dependent methods see. */
const CALIBRATION = 4;
const stepsOf = (c: Kind, perEpoch: number): number => c.steps ?? Math.max(1, Math.round(c.epochs * perEpoch));
const frozen = (batch: Batch<Partial<Parts>>): Partial<Parts> =>
  Object.fromEntries(Object.entries(batch).map(([k, f]) => [k, leaf(f.data, f.shape)]));

const aside = (n: number): string => (n === 0 ? 'none kept aside, so nothing is measured' : `${n} kept aside`);

export function language(texts: Texts, { tokenizer, chat, config }: Reader, c: Kind): Job {
  if (!isDecoder(config) || config.head !== 'language')
    throw new UsageError(`${config.architecture} with a ${config.head} head does not continue texts; give a decoder, or data with labels`);
  const most = config.sizes.positions;
  const longest = Math.min(c.longest, most);
  const train = sequencesOf(texts.train, tokenizer, chat, longest);
  if (train.sequences.length === 0)
    throw new UsageError(
      `nothing is left to learn: with at most ${longest} tokens (longest${longest < c.longest ? ', as many as the model has positions' : ''}) no text has room for an answer`,
    );
  const held = sequencesOf(texts.held, tokenizer, chat, longest).sequences;
  const how = { rows: c.rows, multiple: MULTIPLE, seed: c.seed };
  const all = epochsOf(train.sequences, how, (group, multiple) => languageBatch(group, multiple, most));
  const tokens = train.sequences.reduce((n, s) => n + s.ids.length, 0);
  const asParts = (group: readonly Sequence[]): Batch<Parts> => languageBatch(group, MULTIPLE, most) as unknown as Batch<Parts>; // a seam: language has no mask and no labels
  const batch = (step: number): Batch<Parts> => all.at(step) as unknown as Batch<Parts>;
  const notes = [
    ...(train.cut > 0
      ? [`${train.cut} ${train.cut === 1 ? 'record was' : 'records were'} longer than ${longest} tokens and lost the end`]
      : []),
    ...(tokenizer.end === null ? ['the tokenizer names no end token, so answers do not learn where to stop'] : []),
  ];
  return {
    described: [
      `${train.sequences.length} ${train.sequences.length === 1 ? 'sequence' : 'sequences'} to train on (${tokens.toLocaleString('en-US')} tokens), ${aside(held.length)}`,
      ...notes,
    ].join('; '),
    measure: 'loss',
    steps: stepsOf(c, all.perEpoch),
    batch,
    held: inBuckets(held, how).map(asParts),
    loss: nextTokenInChunks(c.chunk),
    measured: nextTokenInChunks(c.chunk),
    weigh: (b) => countTargets(b),
    tokens: (b) => countTargets(b),
    headed: (m) => m,
    labels: null,
    peftTask: 'CAUSAL_LM',
    calibration: {
      batches: Array.from({ length: Math.min(CALIBRATION, all.perEpoch) }, (_, k) => frozen(batch(k + 1)) as ModelBatch),
      loss: (m, b) => nextToken(m, b as Parts, context(b.ids.shape.at(-1)!)),
    },
  };
}

export function classification(texts: Texts, { tokenizer, config }: Reader, c: Kind): Job {
  const labelled = (records: readonly TextRecord[]): { text: string; label: string }[] =>
    records.map((r) => {
      if (r.kind !== 'label') throw new UsageError('some texts have labels and others have none; give all of them labels');
      return r;
    });
  const [train, held] = [labelled(texts.train), labelled(texts.held)];
  const labels = c.labels ?? [...new Set([...train, ...held].map((r) => r.label))].sort();
  const strange = [...train, ...held].find((r) => !labels.includes(r.label));
  if (strange !== undefined) throw new UsageError(`the classifier knows ${labels.join(', ')}, not ${strange.label}`);
  if (labels.length < 2) throw new UsageError(`the data have one label, ${labels[0]}; a classifier needs two or more`);
  const most = config.sizes.positions;
  const longest = Math.min(c.longest, most);
  const { before, after } = around(tokenizer);
  const encoded = (records: readonly { text: string; label: string }[]): Encoded[] =>
    records.map(({ text, label }) => ({
      ids: Int32Array.from([...before, ...tokenizer.plain(text).slice(0, Math.max(0, longest - before.length - after.length)), ...after]),
      label: labels.indexOf(label),
    }));
  const how = { rows: c.rows, multiple: MULTIPLE, seed: c.seed };
  const make = (group: readonly Encoded[]): TextBatch => batchOf(group, MULTIPLE, most);
  const all = epochsOf(encoded(train), how, make);
  const batch = (step: number): Batch<Parts> => all.at(step) as unknown as Batch<Parts>; // a seam: classes have no targets
  return {
    described: `${train.length} texts to train on, ${aside(held.length)}; labels ${labels.slice(0, 6).join(', ')}${labels.length > 6 ? ', …' : ''}`,
    measure: 'accuracy',
    steps: stepsOf(c, all.perEpoch),
    batch,
    held: inBuckets(encoded(held), how).map(make) as unknown as Batch<Parts>[],
    loss: classify,
    measured: accuracy,
    weigh: (b) => b.labels.data.length,
    tokens: (b) => realTokens(b),
    headed: (m, r) => withHead(m, config, labels.length, r),
    labels,
    peftTask: 'SEQ_CLS',
    calibration: {
      batches: Array.from({ length: Math.min(CALIBRATION, all.perEpoch) }, (_, k) => frozen(batch(k + 1)) as ModelBatch),
      loss: (m, b) => classify(m, b as Parts, context(b.ids.shape.at(-1)!)),
    },
  };
}
