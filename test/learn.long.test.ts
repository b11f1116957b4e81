// Law I12 at length: every method with its listed defaults brings the loss of the demo task below a stated threshold.
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Demo, demo, restore } from '../cli/demo.ts';
import { attached, compare } from '../cli/methodTrain.ts';
import type { Engine } from '../core/engine.ts';
import { openEngine } from '../core/open.ts';
import { evaluate } from '../optim/evaluate.ts';
import { methods } from '../peft/all.ts';

const STEPS = 150;
/** The best of four by a validation part: the table's two larger ones, and two for prompts, whose papers take 0.3 and more. */
const RATES = [0.01, 0.05, 0.3, 1];

// The network knows letters, but not that all vowels and nothing else are hidden: its head is as pretraining left it.
const BASE = 1.9; // nats per hidden letter that it has at least
const LEARNED = 1.6; // what a method that changes layers must reach; knowing the five vowels' frequencies alone gives about 1.5
const NUDGED = 1.92; // what one must reach that only puts tokens in front or moves three positions, and cannot change what layers do
/** Those held to the weaker threshold. */
const IN_FRONT: Readonly<Record<string, string>> = {
  promptTuning: 'tokens in front',
  ptp: 'tokens in front: prompt tuning, and what its own loss adds is for the same tokens',
  pTuning: 'tokens in front',
  spot: 'tokens in front',
  xprompt: 'tokens in front',
  mpt: 'tokens in front',
  idpg: 'tokens in front',
  smop: 'tokens in front',
  tpt: 'tokens in front, projected from a prompt that is random here',
  lpt: 'tokens in front, of the last block alone',
  sptPrompt: 'tokens in front, ten for each block, which read them as text: prompt tuning with ten comes to 1.83, this to 1.81',
  cpt: 'tokens in front, that may move by 0.18 from those of examples',
  loreft: 'three positions of 32',
  noreft: 'three positions of 32',
  direft: 'three positions of 32',
  adapterFusion: 'mixes adapters, which are untrained here',
  tinyLora: 'its R is 2 × 2 in four layers: 16 directions, whatever its size; LoRA-XS of rank 2 comes to 1.65 there, this too',
};
/** Those that cannot learn the task as attached, and must not seem to: each stays above NUDGED, or has no place here. */
const CANNOT: Readonly<Record<string, string>> = {
  ipt: 'its decoder is random, the control of its authors: that of the method is learned from prompts of many tasks, and here is one',
};

const held: { engine?: Engine; task?: Demo } = {};
beforeAll(async () => {
  held.engine = await openEngine();
  held.task = (await demo({ engine: held.engine, probe: 0 }))!;
}, 600_000); // it pretrains
afterAll(() => held.engine?.close());

test('the base cannot do it', async () => {
  const loss = await evaluate(held.task!.base, { engine: held.engine!, measure: restore, batches: held.task!.test });
  expect(loss).toBeGreaterThan(BASE);
  expect(loss).toBeGreaterThan(NUDGED + 0.01);
});
test('the exceptions are methods, each once', () => {
  const all = [IN_FRONT, CANNOT].flatMap(Object.keys);
  expect(all.filter((n) => !methods.some((m) => m.name === n))).toEqual([]);
  expect(all.length).toBe(new Set(all).size);
});
test('MoLE does not start with what it learns', async () => {
  const fresh = await attached(methods.find((m) => m.name === 'mole')!, held.task!, { engine: held.engine!, steps: STEPS, seed: 0 });
  expect(await evaluate(fresh, { engine: held.engine!, measure: restore, batches: held.task!.test })).toBeGreaterThan(LEARNED);
});
for (const m of methods)
  test(m.name, async () => {
    const o = { engine: held.engine!, steps: STEPS, seeds: 1, rates: RATES };
    const about = { name: m.name, family: m.family, place: m.at, mergeable: true, composable: 'any' as const };
    const e = (await compare(about, (seed) => attached(m, held.task!, { ...o, seed }), held.task!, o))!;
    const found = expect(e.losses[0], `${m.name} at its best rate, ${e.rate}`);
    if (m.name in CANNOT) found.toBeGreaterThan(NUDGED);
    else found.toBeLessThan(m.name in IN_FRONT ? NUDGED : LEARNED);
  });
