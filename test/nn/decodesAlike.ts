// Methods generate with the cache what they generate without one.
import { describe, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { leaf } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { decoding } from '../../nn/generate.ts';
import { methods } from '../../peft/all.ts';
import { caseOf } from '../laws/methodCase.ts';
import { gpt2Network, llamaNetwork } from '../laws/models.ts';
import { apart } from './models.ts';

const TEXT = [3, 1, 4, 1, 5, 9];

/** Every method on GPT-2 and LLaMA, or where both fit on one of them by turns. */
export function decodeAlike(byTurns: boolean): void {
  const decoders = [gpt2Network(1), llamaNetwork(2)];
  describe.each(decoders)('$name', (net) => {
    for (const [turn, m] of methods.entries()) {
      const fitting = decoders.filter((n) => m.unfit[n.name] === undefined);
      if (!fitting.includes(net) || (byTurns && fitting[turn % fitting.length] !== net)) continue;
      // A method whose rows depend on each other sees other tokens in a pass over one: with the cache it computes something else.
      if (m.configurable?.method.acrossRows !== undefined) continue;
      test(m.name, async () => {
        const engine = float64();
        const { model } = await caseOf(m, net, 5, engine);
        const d = await decoding(model, [TEXT.slice(0, 3)], { engine, tokens: 4 });
        for (let n = 3; ; n++) {
          const whole = await engine.read(model({ ids: leaf(TEXT.slice(0, n), [1, n]) }, context(n)));
          expect(apart(d.logits, whole.slice(-d.logits.length))).toBeLessThan(1e-10);
          if (n === TEXT.length) break;
          await d.advance([TEXT[n]!]);
        }
        d.close();
      });
    }
  });
}
