// Small things to train, and a comparison of states bit by bit.
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { decoder, gpt2 } from '../../nn/decoder.ts';
import { freeze } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import type { Optimizer } from '../../optim/optimizer.ts';
import type { TrainingState } from '../../optim/state.ts';
import { type Batch, type Trainer, type TrainerOptions, trainer } from '../../optim/trainer.ts';

export const VOCABULARY = 7;
export const gpt = (seed = 1): Model => decoder(gpt2({ vocabulary: VOCABULARY, width: 8, layers: 2, heads: 2, positions: 6 }), rng(seed));
export const frozen = (seed = 1): Model => freeze(gpt(seed));

export type Text = { ids: Tensor; targets: Tensor };
/** Texts in which every token is followed by the next number: learnable by looking at one token. */
export function counting(seed: number, rows = 2, tokens = 4): Batch<Text> {
  const r = rng(seed);
  const starts = Array.from({ length: rows }, () => r.below(VOCABULARY));
  const ids = starts.flatMap((s) => Array.from({ length: tokens }, (_, k) => (s + k) % VOCABULARY));
  return {
    ids: { data: Int32Array.from(ids), shape: [rows, tokens] },
    targets: { data: Int32Array.from(ids, (i) => (i + 1) % VOCABULARY), shape: [rows, tokens] },
  };
}
/** The rows of several batches in one. */
export function joined(batches: readonly Batch<Text>[]): Batch<Text> {
  const all = (k: keyof Text) => ({
    data: Int32Array.from(batches.flatMap((b) => [...b[k].data])),
    shape: [batches.reduce((n, b) => n + b[k].shape[0]!, 0), batches[0]![k].shape[1]!],
  });
  return { ids: all('ids'), targets: all('targets') };
}

/** A tree of one parameter, and a loss Σ g·w whose gradient is the g that is fed. */
export type Vector = { readonly w: Tensor };
export const vector = (w: readonly number[], meta: { lr?: number; decay?: boolean } = {}): Vector => ({
  w: param(Float64Array.from(w), [w.length], meta),
});
export const slope = (m: Vector, { g }: { g: Tensor }): Tensor => m.w.mul(g).sum();
export const vectorTrainer = (
  model: Vector,
  optimizer: Optimizer,
  more: Partial<TrainerOptions<Vector, { g: Tensor }>> = {},
): Promise<Trainer<Vector, { g: Tensor }>> => trainer<Vector, { g: Tensor }>(model, { engine: float64(), loss: slope, optimizer, ...more });
export const pull = (g: readonly number[] | Float32Array): Batch<{ g: Tensor }> => ({
  g: { data: Float64Array.from(g), shape: [g.length] },
});
/** The values of the one parameter. */
export const at = async (t: Trainer<Vector, { g: Tensor }>): Promise<number[]> => [...(await t.state()).values.w!.data];

/** Every number of a state with its bits, by name. */
export const bits = (s: TrainingState): Record<string, readonly (number | string)[]> => {
  const of = (data: ArrayLike<number>) => Array.from(data, (x) => (Object.is(x, -0) ? '-0' : x));
  return {
    at: [s.step, s.seed, s.optimizer],
    ...Object.fromEntries(Object.entries(s.values).map(([path, v]) => [path, of(v.data)])),
    ...Object.fromEntries(
      Object.entries(s.moments).flatMap(([path, own]) => Object.entries(own).map(([name, v]) => [`${path} ${name}`, of(v.data)])),
    ),
  };
};
