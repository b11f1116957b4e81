// A sample of method pairs, drawn by seed, and those that were once broken; `npm run test:long` runs them all.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { methods } from '../../peft/all.ts';
import { networks } from './models.ts';
import { judgePair, pairsOn } from './pairLaws.ts';

const seed = Number(process.env.TINYPEFT_SEED ?? 1);
const SAMPLE = 30;
const engine = float64();
/** Found by running all pairs (docs/decisions/260-all-pairs.md). */
const ONCE_BROKEN = [
  ['mov', 'boft'], // refused while it computed, not while it was attached
  ['diffPruning', 'far'], // a controller beneath a method that trains before it chooses
  ['lpt', 'lst'], // rows that enter between two blocks, beneath what reads all blocks
  ['sptPrompt', 'resTuning'],
  ['resTuning', 'sptPrompt'],
  ['lpt', 'meft'],
  ['xlora', 'resTuning'], // blocks that are walked twice
  ['lst', 'bitDelta'], // trains before it attaches, where no gradient enters
] as const;

describe(`pairs of methods, sampled with seed ${seed}`, () => {
  const all = networks(seed).flatMap((net) => pairsOn(methods, net).map(([a, b]) => ({ net, a, b })));
  const drawn = rng(seed)
    .split('pairs')
    .permutation(all.length)
    .slice(0, SAMPLE)
    .map((k) => all[k]!);
  for (const { net, a, b } of drawn)
    it(`${a.name}, then ${b.name}, on ${net.name}`, async () => {
      const verdict = await judgePair(a, b, net, seed, engine);
      if (verdict.kind !== 'holds') expect(verdict.why).toMatch(/attach/);
    });
  for (const [first, second] of ONCE_BROKEN)
    it(`${first}, then ${second}, once broken`, async () => {
      const [net, named] = [networks(seed)[0]!, (name: string) => methods.find((m) => m.name === name)!];
      const verdict = await judgePair(named(first), named(second), net, seed, engine);
      expect(verdict.kind).toBe(first === 'mov' ? 'refused' : second === 'bitDelta' ? 'idle' : 'holds');
    });
});
