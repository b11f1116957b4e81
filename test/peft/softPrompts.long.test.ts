// Every law of a method, for the forms of soft prompts that their lines in the list do not take.
import { describe, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { iptAutoencoder } from '../../peft/additive/iptSubspace.ts';
import { lpt } from '../../peft/additive/lpt.ts';
import { sptPrompt } from '../../peft/additive/sptPrompt.ts';
import { tpt } from '../../peft/additive/tpt.ts';
import { listed } from '../../peft/listed.ts';
import { caseOf } from '../laws/methodCase.ts';
import { laws } from '../laws/methodLaws.ts';
import { bertNetwork, networks } from '../laws/models.ts';

const engine = float64();
const everywhere = [
  listed('peft/additive/sptPrompt.ts', sptPrompt, { length: 2, kept: [1] }),
  listed('peft/additive/iptSubspace.ts', iptAutoencoder, { length: 2, dimension: 3, hidden: 4, weight: 0.1 }),
  listed('peft/additive/tpt.ts', tpt, { length: 2, hidden: 4, activation: 'tanh', norm: false }),
];
const reading = [
  ...(['naive', 'average', 'max'] as const).map((generator) =>
    listed('peft/additive/lpt.ts', lpt, { length: 2, generator, hidden: 5, dropout: 0.25 }),
  ),
  listed('peft/additive/sptPrompt.ts', sptPrompt, { length: 2, generator: 'average', hidden: 5, dropout: 0.25 }),
];
for (const [methods, nets] of [
  [everywhere, networks(65)],
  [reading, [bertNetwork(66)]],
] as const)
  for (const net of nets)
    describe(`on ${net.name}, every law holds for`, () => {
      for (const [n, l] of methods.entries())
        it(`${l.name} (${n})`, async () => {
          const made = await caseOf(l, net, 65, engine);
          for (const law of laws) await law.check(made);
        });
    });
