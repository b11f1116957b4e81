// Every law of a method, for the forms of soft prompts that their lines in the list do not take.
import { describe, expect, it, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { leaf } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { generate } from '../../nn/generate.ts';
import { iptAutoencoder } from '../../peft/additive/iptSubspace.ts';
import { lpt } from '../../peft/additive/lpt.ts';
import { sptPrompt } from '../../peft/additive/sptPrompt.ts';
import { tpt } from '../../peft/additive/tpt.ts';
import { listed } from '../../peft/listed.ts';
import { caseOf } from '../laws/methodCase.ts';
import { laws } from '../laws/methodLaws.ts';
import { bertNetwork, gpt2Network, llamaNetwork, networks, perturb } from '../laws/models.ts';

const engine = float64();
const p = 2;
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

test('late and selected prompts: text made step by step against a cache is text made by whole passes', async () => {
  for (const net of [gpt2Network(9), llamaNetwork(9)])
    for (const method of [lpt({ length: p }), sptPrompt({ length: p, tau: 0.5 }), sptPrompt({ length: p, kept: [1] })]) {
      const model = perturb(method(net.base), 10);
      const text = [3, 1, 4];
      const made = await generate(model, text, { engine, tokens: 3, temperature: 0 });
      for (const token of made) {
        const y = await engine.read(model({ ids: leaf(text, [1, text.length]) }, context(text.length, { causal: true })));
        const last = [...y.slice(-y.length / text.length)];
        expect(token).toBe(last.indexOf(Math.max(...last)));
        text.push(token);
      }
    }
});
