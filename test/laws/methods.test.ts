// Every method against every law, on one of the three networks by turns (on all of them, with eight seeds: methods.long.test.ts; one method on all:
// `npm run laws`). A failure names the method, the network and the seed.
// `npm run laws -- lora` runs one method; TINYPEFT_SEED=7 draws other weights.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { methods } from '../../peft/all.ts';
import { type Case, caseOf, refusal } from './methodCase.ts';
import { laws } from './methodLaws.ts';
import { networks } from './models.ts';

const seed = Number(process.env.TINYPEFT_SEED ?? 1);
const engine = float64();

const all = process.env.TINYPEFT_NETWORKS === 'all';

for (const [turn, method] of methods.entries())
  describe(method.name, () => {
    const fitting = networks(seed).filter((n) => method.unfit[n.name] === undefined);
    const chosen = all ? fitting : [fitting[turn % fitting.length]!];
    for (const net of networks(seed)) {
      const unfit = method.unfit[net.name];
      if (unfit !== undefined) {
        it(`${net.name} has no place for it (${unfit}): it says so`, () => {
          const said = refusal(() => method.tiny()(net.base));
          expect(said).toContain(method.name);
        });
        continue;
      }
      if (!chosen.some((n) => n.name === net.name)) continue;
      describe(net.name, () => {
        const made: { case?: Promise<Case> } = {};
        for (const law of laws)
          it(`${law.id}: ${law.says} (seed ${seed})`, async () => {
            made.case ??= caseOf(method, net, seed, engine);
            await law.check(await made.case);
          });
      });
    }
  });
