// PeriodicLoRA as its paper runs it: a fresh LoRA, optimizer and schedule for every stage, each unloaded into the weights of the next.
// Meng et al. 2024, arXiv 2402.16141, §3.
import type { Engine } from '../../core/engine.ts';
import { freeze, realize } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { wholeNumber } from '../check.ts';
import { merge } from '../merge.ts';
import type { Options } from '../method.ts';
import { type LoraConfig, lora } from './lora.ts';

export interface Stages {
  readonly engine: Engine;
  /** Trains what is trainable from the beginning: a new optimizer, a new schedule. Stages count from 1. */
  readonly train: (model: Model, stage: number) => Promise<Model>;
  readonly stages: number;
}

/**
 * The frozen model after all stages, the last one unloaded too: a model as large as the base and without attachments, whose weights have
 * moved by an update of rank up to stages·r. Throws as LoRA does where it does not fit.
 */
export async function periodicLoraStages(
  base: Model,
  { engine, train, stages }: Stages,
  options: Options<LoraConfig> = {},
): Promise<Model> {
  wholeNumber('periodicLoraStages', 'stages', stages);
  let model = base;
  for (let stage = 1; stage <= stages; stage++) {
    const seed = typeof options.seed === 'object' ? options.seed.split(`stage ${stage}`) : (options.seed ?? 0) + stage - 1;
    model = freeze(await realize(merge(await train(lora({ ...options, seed })(model), stage)), engine));
  }
  return model;
}
