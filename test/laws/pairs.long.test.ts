// Every ordered pair of methods on every network. Prints how many ran, merged and were refused.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { methods } from '../../peft/all.ts';
import { networks } from './models.ts';
import { judgePair, pairsOn } from './pairLaws.ts';

const seed = Number(process.env.TINYPEFT_SEED ?? 1);
const engine = float64();

describe(`all pairs of methods, seed ${seed}`, () => {
  for (const net of networks(seed)) {
    const pairs = pairsOn(methods, net);
    it(`on ${net.name}: ${pairs.length} pairs`, async () => {
      const count = { held: 0, merged: 0 };
      const refused: string[] = [];
      const broken: string[] = [];
      for (const [a, b] of pairs)
        try {
          const verdict = await judgePair(a, b, net, seed, engine);
          if (verdict.kind === 'refused') refused.push(`${a.name} → ${b.name}`);
          else count.held++;
          if (verdict.kind === 'holds' && verdict.merged) count.merged++;
        } catch (e) {
          broken.push(e instanceof Error ? e.message : String(e));
        }
      console.log(
        `${net.name}: ${pairs.length} pairs ran: ${count.held} hold (${count.merged} of them merged), ${refused.length} refused, ${broken.length} broken${refused.length > 0 ? `\n  refused: ${refused.join(', ')}` : ''}`,
      );
      expect(broken).toEqual([]);
      expect(count.held).toBeGreaterThan(pairs.length / 2);
    });
  }
});
