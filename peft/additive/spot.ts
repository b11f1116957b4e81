// SPoT: a prompt trained on one task is where the prompt of another task starts. What is trained is prompt tuning; the transfer is
// `spotStart` (spotTransfer.ts), by the likeness of tasks.
//   e(task) = mean of the prompt's rows, early in training;   likeness = cosine of two e
// Vu et al. 2022, arXiv 2110.07904, §2.
import { type Param, paramOf } from '../../core/tensor.ts';
import type { Fields, Model } from '../../nn/layer.ts';
import { layers } from '../../nn/tree.ts';
import { hybrid } from '../combine.ts';
import type { Options, Transform } from '../method.ts';
import { type PromptTuningConfig, promptTuning } from './promptTuning.ts';

/** Prompt tuning as the authors have it for transfer: 100 rows. Count: p·d. */
export const spot = (options: Options<PromptTuningConfig> = {}): Transform => hybrid('spot', promptTuning({ length: 100, ...options }));

/** The prompt [p, d] of a model with prompt tuning on it. */
export function promptOf(model: Model): Param {
  for (const { layer } of layers(model)) {
    if (layer.attached?.method !== 'promptTuning') continue;
    const { P } = layer.fields[layer.attached.field] as Fields as { readonly P?: Parameters<typeof paramOf>[0] };
    const p = P === undefined ? null : paramOf(P);
    if (p !== null) return p;
  }
  throw new Error('spot: this model has no prompt that can be trained; attach promptTuning({ … }) with a length above 0');
}

/** A task's embedding: the mean of its prompt's rows. [d] */
export function taskEmbedding(model: Model): Float64Array {
  const { value, shape } = promptOf(model);
  const [p, d] = shape as readonly [number, number];
  const mean = new Float64Array(d);
  for (const [k, v] of value.entries()) mean[k % d]! += v / p;
  return mean;
}

/** Cosine of two task embeddings, −1 … 1. */
export function similarity(a: Float64Array, b: Float64Array): number {
  const dot = (x: Float64Array, y: Float64Array): number => x.reduce((s, v, k) => s + v * y[k]!, 0);
  const scale = Math.sqrt(dot(a, a) * dot(b, b));
  if (scale === 0) throw new RangeError('similarity: a prompt whose rows have the mean 0 has no direction; train it some steps first');
  return dot(a, b) / scale;
}
