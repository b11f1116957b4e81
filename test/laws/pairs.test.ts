// A sample of method pairs, drawn by seed; `npm run test:long` runs them all.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { methods } from '../../peft/all.ts';
import { networks } from './models.ts';
import { judgePair, pairsOn } from './pairLaws.ts';

const seed = Number(process.env.TINYPEFT_SEED ?? 1);
const SAMPLE = 30;
const engine = float64();

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
      if (verdict.kind === 'refused') expect(verdict.why).toMatch(/attach/);
    });
});
