// Every law of a method, for each combinator on every network.
import { describe, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { caseOf } from '../laws/methodCase.ts';
import { laws } from '../laws/methodLaws.ts';
import { networks } from '../laws/models.ts';
import { combined } from './combined.ts';

const engine = float64();
for (const net of networks(64))
  describe(`on ${net.name}, every law of a method holds for`, () => {
    for (const l of combined)
      it(l.name, async () => {
        const made = await caseOf(l, net, 64, engine);
        for (const law of laws) await law.check(made);
      });
  });
