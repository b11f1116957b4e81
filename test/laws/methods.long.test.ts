// Every method on every network against every law, with other weights, texts and starting values.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { methods } from '../../peft/all.ts';
import { caseOf } from './methodCase.ts';
import { laws } from './methodLaws.ts';
import { networks } from './models.ts';

const SEEDS = [11, 12, 13, 14, 15, 16, 17, 18];
const engine = float64();

for (const method of methods)
  describe(method.name, () => {
    it(`keeps ${laws.length} laws with seeds ${SEEDS.join(', ')}`, async () => {
      const broken: string[] = [];
      for (const seed of SEEDS)
        for (const net of networks(seed).filter((n) => method.unfit[n.name] === undefined)) {
          const c = await caseOf(method, net, seed, engine);
          for (const law of laws) await law.check(c).catch((e) => broken.push(`${law.id}: ${e instanceof Error ? e.message : String(e)}`));
        }
      expect(broken).toEqual([]);
    });
  });
