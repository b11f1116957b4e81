// What the tests of learnability share: the thresholds of law I12, and the demo task with its head as pretraining left it.
import { type Demo, demo, restore } from '../cli/demo.ts';
import type { Engine } from '../core/engine.ts';
import { openEngine } from '../core/open.ts';
import type { Model } from '../nn/layer.ts';
import { evaluate } from '../optim/evaluate.ts';

export const STEPS = 150;
// The network knows letters, but not that all vowels and nothing else are hidden.
export const BASE = 1.9; // nats per hidden letter that it has at least
export const LEARNED = 1.6; // what a method that changes layers must reach; knowing the five vowels' frequencies alone gives about 1.5
// What one must reach that leaves the layers as they are but for tokens in front, three positions, or 16 directions.
export const NUDGED = 1.92;

export interface Learning {
  readonly engine: Engine;
  readonly task: Demo;
  readonly lossOf: (model: Model) => Promise<number>;
}
/** Pretrains: half a minute. */
export async function learning(): Promise<Learning> {
  const engine = await openEngine();
  const task = (await demo({ engine, probe: 0 }))!;
  return { engine, task, lossOf: (model) => evaluate(model, { engine, measure: restore, batches: task.test }) };
}
