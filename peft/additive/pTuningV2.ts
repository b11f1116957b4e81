// P-tuning v2: a prefix at every layer of a network that understands text, with a classification head in the place of a verbaliser.
//   attend(q, [P_k; k], [P_v; v]) in each layer;   logits = head(pooled)
// Liu et al. 2022, arXiv 2110.07602, §3.
import type { Rng } from '../../core/rng.ts';
import { type ClassifierOptions, classifier, tagger } from '../../nn/heads.ts';
import type { Model } from '../../nn/layer.ts';
import { hybrid } from '../combine.ts';
import type { Transform } from '../method.ts';
import { type PrefixTuningConfig, prefixTuning } from './prefixTuning.ts';

export interface PTuningV2Options extends Partial<Pick<PrefixTuningConfig, 'length' | 'bottleneck' | 'dropout'>> {
  readonly seed?: number;
}
/**
 * The prompts alone, for a model that has its head: prefix tuning without the MLP (`bottleneck`: with one of that width; which is better
 * depends on the task), and with dropout on the prefix as the authors have it. Simple tasks want fewer than 20, sequence labelling about 100.
 * Count: 2LpHkD, and the head.
 */
export const pTuningV2 = ({ length = 20, bottleneck = null, dropout = 0.1, seed = 0 }: PTuningV2Options = {}): Transform =>
  hybrid('pTuningV2', prefixTuning({ length, bottleneck, dropout, seed }));

/** A class per text (with the classifier's options), or per token. */
export type Task = ClassifierOptions | { readonly classes: number; readonly perToken: true };

/**
 * Models for several tasks, by name, over one frozen network with one set of prompts: only the heads differ, fresh and trainable.
 * Train the record (`trainer(models, …)`, whose loss picks the model of a batch's task) for the paper's multi-task prompts, then take one
 * of the models and go on with it alone. With one task it is P-tuning v2 from the start.
 */
export function pTuningV2Tasks<N extends string>(
  network: Model,
  tasks: Readonly<Record<N, Task>>,
  prompts: Transform,
  r: Rng,
): Readonly<Record<N, Model>> {
  const prompted = prompts(network);
  const headed = ([name, task]: [string, Task]): [string, Model] => [
    name,
    'perToken' in task ? tagger(prompted, task, r.split(name)) : classifier(prompted, task, r.split(name)),
  ];
  return Object.fromEntries(Object.entries<Task>(tasks).map(headed)) as Readonly<Record<N, Model>>;
}
