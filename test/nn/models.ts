// Tiny models and readings that the tests of nn share.
import type { Engine } from '../../core/engine.ts';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { leaf, param, paramOf, type Tensor } from '../../core/tensor.ts';
import { type Context, context } from '../../nn/context.ts';
import { type DecoderConfig, decoder, gpt2, llama } from '../../nn/decoder.ts';
import type { Model } from '../../nn/layer.ts';
import { mapTensors } from '../../nn/tree.ts';

export const SIZES = { vocabulary: 11, width: 8, layers: 2, heads: 2, inner: 12, positions: 24 };

/** Parameters drawn N(0, 0.5²) (gains around 1), so that no law passes because everything is small or zero. */
export function lively<T extends Model>(model: T, seed: number): T {
  const made = new Map<unknown, Tensor>();
  return mapTensors(model, (t, path) => {
    const p = paramOf(t);
    if (p === null) return t;
    const mean = /norm\w*\.weight$|first\.weight$/.test(path) ? 1 : 0;
    const values = rng(seed).split(path).normal(p.value.length, 0.5, mean);
    const now = made.get(p) ?? param(values, p.shape, { decay: p.decay });
    made.set(p, now);
    return now;
  });
}

/** Every switch of the decoder in four models. */
export const DECODERS: Readonly<Record<string, DecoderConfig>> = {
  gpt2: gpt2(SIZES),
  'gpt2 fused': gpt2({ ...SIZES, fusedQkv: true, tied: false }),
  llama: llama(SIZES),
  'llama grouped': llama({ ...SIZES, heads: 4, kvHeads: 2, tied: true }),
};
export const tiny = (name: string, seed: number): Model => lively(decoder(DECODERS[name]!, rng(seed)), seed);

export const ids = (rows: readonly (readonly number[])[]): Tensor => leaf(Float64Array.from(rows.flat()), [rows.length, rows[0]!.length]);
export const randomRows = (seed: number, rows: number, tokens: number, vocabulary = SIZES.vocabulary): number[][] => {
  const r = rng(seed).split('ids');
  return Array.from({ length: rows }, () => Array.from({ length: tokens }, () => r.below(vocabulary)));
};

/** Runs a model on rows of equal length; a row of results per row. */
export async function read(
  model: Model,
  rows: readonly (readonly number[])[],
  change: Partial<Context> = {},
  keyMask: readonly (readonly number[])[] | null = null,
  engine: Engine = float64(),
): Promise<number[][]> {
  const y = model({ ids: ids(rows), keyMask: keyMask === null ? null : ids(keyMask) }, context(rows[0]!.length, change));
  const v = await engine.read(y);
  const each = v.length / rows.length;
  return rows.map((_, k) => [...v.subarray(k * each, (k + 1) * each)]);
}

/** The largest difference between two lists of numbers. */
export function apart(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) throw new Error(`${a.length} numbers against ${b.length}`);
  return Array.from(a).reduce((d, v, i) => Math.max(d, Math.abs(v - b[i]!)), 0);
}
