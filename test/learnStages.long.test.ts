// Law I12 for methods that learn with something the demo task alone does not give: trained LoRAs, prompts of other tasks, room to move.
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Hidden, restore } from '../cli/demo.ts';
import { workedExample } from '../cli/methodAdjusted.ts';
import { attached } from '../cli/methodTrain.ts';
import type { Model } from '../nn/layer.ts';
import { adamw } from '../optim/adamw.ts';
import { clipByNorm } from '../optim/clip.ts';
import { cosine, warmup } from '../optim/schedule.ts';
import { type Batch, type Fed, trainer } from '../optim/trainer.ts';
import { cpt } from '../peft/additive/cpt.ts';
import { ipt } from '../peft/additive/ipt.ts';
import { iptStages } from '../peft/additive/iptSubspace.ts';
import { promptTuning } from '../peft/additive/promptTuning.ts';
import { methods } from '../peft/all.ts';
import { LEARNED, type Learning, learning, NUDGED, STEPS } from './learning.ts';

let l: Learning;
beforeAll(async () => {
  l = await learning();
}, 600_000);
afterAll(() => l?.engine.close());

type Batches = (step: number) => Batch<Hidden>;
async function trained(model: Model, lr: number, batch: Batches = l.task.train(0)): Promise<Model> {
  await using t = await trainer<Model, Hidden>(model, {
    ...{ engine: l.engine, loss: restore, seed: 0, total: STEPS, clip: clipByNorm(1), optimizer: adamw({ lr }) },
    schedule: warmup(Math.ceil(STEPS / 20), cosine({ end: 0.1 })),
  });
  for (let step = 1; step <= STEPS; step++) await t.step(batch(step));
  return t.model();
}

test('MoLE: the gates find the one of four LoRAs that knows the task', async () => {
  const fresh = await attached(methods.find((m) => m.name === 'mole')!, l.task, { engine: l.engine, steps: STEPS, seed: 0 });
  expect(await l.lossOf(fresh)).toBeGreaterThan(LEARNED); // a fourth of what it knows
  expect(await l.lossOf(await trained(fresh, 0.05))).toBeLessThan(LEARNED);
});

test('CPT: the further rows may move from an example’s, the more they learn', async () => {
  const losses: number[] = [];
  for (const epsilon of [0.1, 1, 3]) {
    const at = await cpt({ ...workedExample(l.task, 0), epsilon, formatEpsilon: epsilon, seed: 0 }).prepare(l.task.base, l);
    if (losses.length === 0) losses.push(await l.lossOf(at(l.task.base)));
    losses.push(await l.lossOf(await trained(at(l.task.base), 0.05)));
  }
  expect(losses).toEqual([...losses].sort((a, b) => b - a)); // from the start down
  expect(losses.at(-1)).toBeLessThan(NUDGED);
});

/** Texts of the demo task with other letters hidden, in place of the vowels. */
function hiding(letters: string, seed: number): Batches {
  const vowels = l.task
    .train(0)(1)
    .targets.data.filter((id) => id >= 0);
  const ids = new Set([...letters].map((c) => Math.min(...vowels) + c.charCodeAt(0) - 'a'.charCodeAt(0)));
  return (step) => {
    const { ids: text, targets } = l.task.train(seed)(step);
    const whole = Int32Array.from(text.data, (id, k) => (targets.data[k] === -100 ? id : targets.data[k]!));
    return {
      ids: { data: whole.map((id) => (ids.has(id) ? l.task.mask : id)), shape: text.shape },
      targets: { data: whole.map((id) => (ids.has(id) ? id : -100)), shape: text.shape },
    };
  };
}
/** Batches of all tasks one under the other, with the task of each row. */
const together =
  (tasks: readonly Batches[]): Batches =>
  (step) => {
    const all = tasks.map((t) => t(step));
    const under = (feds: readonly Fed[]): Fed => {
      const [rows, tokens] = feds[0]!.shape as readonly [number, number];
      return { data: Int32Array.from(feds.flatMap(({ data }) => [...data])), shape: [feds.length * rows, tokens] };
    };
    const rows = all[0]!.ids.shape[0]!;
    const task = Int32Array.from({ length: all.length * rows }, (_, k) => Math.floor(k / rows));
    return { ids: under(all.map((b) => b.ids)), targets: under(all.map((b) => b.targets)), task: { data: task, shape: [task.length] } };
  };

test('IPT: numbers that a decoder makes a prompt of, learned from prompts of other tasks; a random decoder’s do not', async () => {
  const tasks = ['ae', 'io', 'aiu', 'eou', 'tns', 'rhl'].map((letters, seed) => hiding(letters, seed));
  const sources: Model[] = [];
  for (const t of tasks) sources.push(await trained(promptTuning({ length: 100, seed: 0 })(l.task.base), 1, t));
  const sizes = { dimension: 16, hidden: 64 };
  const attach = await iptStages({ ...sizes, base: l.task.base, sources, trainAll: (m) => trained(m, 0.01, together(tasks)) });
  const fresh = attach(l.task.base);
  expect(await l.lossOf(fresh)).toBeGreaterThan(NUDGED);
  expect(await l.lossOf(await trained(fresh, 0.05))).toBeLessThan(NUDGED);
  for (const lr of [0.05, 1])
    expect(await l.lossOf(await trained(ipt({ ...sizes, length: 100, seed: 0 })(l.task.base), lr))).toBeGreaterThan(NUDGED);
});
