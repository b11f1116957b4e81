// Every law of a method, for what is AdapterHub's own in its configurations, on every network.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { caseOf } from '../laws/methodCase.ts';
import { laws } from '../laws/methodLaws.ts';
import { networks } from '../laws/models.ts';
import { ofHub } from './adapterHub.ts';

const engine = float64();
for (const net of networks(65))
  describe(`on ${net.name}, every law of a method holds for`, () => {
    for (const l of ofHub.filter((l) => l.unfit[net.name] === undefined))
      it(l.name, async () => {
        const made = await caseOf(l, net, 65, engine);
        for (const law of laws) await law.check(made);
        expect(laws.length).toBeGreaterThan(10);
      });
  });
