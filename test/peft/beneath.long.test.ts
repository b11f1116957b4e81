// A method that puts layers of its own inside a network must let methods beneath change what is inside those: nothing may be lost.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { withValues } from '../../nn/freeze.ts';
import { trainable } from '../../nn/tree.ts';
import { llamaAdapter } from '../../peft/additive/llamaAdapter.ts';
import { prefixTuning } from '../../peft/additive/prefixTuning.ts';
import { methods } from '../../peft/all.ts';
import { bertNetwork, numbersOf, perturb } from '../laws/models.ts';
import { apart } from './naive.ts';

const engine = float64();
const net = bertNetwork(29);
const wide = methods.filter(
  (m) =>
    m.placeable && m.unfit.bert === undefined && !m.configurable!.method.needsPreparing && (m.at[0] === 'trunk' || m.at[0] === 'block'),
);

test.each([
  ['prefixTuning', prefixTuning({ length: 2, bottleneck: null })],
  ['llamaAdapter', llamaAdapter({ length: 2 })],
])('what %s brings to each block is heard under every method that wraps the whole network', async (name, first) => {
  const under = first(net.base);
  for (const second of wide) {
    const model = perturb(second.tiny({ seed: 30 })(under), 31);
    const before = await numbersOf(engine, net, model);
    for (const [p, path] of trainable(model)) {
      if (!path.includes(`.${name}.`)) continue;
      const other = withValues(model, new Map([[p, Float64Array.from(p.value, (v) => v + 0.5)]]));
      expect(apart(before, await numbersOf(engine, net, other)), `${path} under ${second.name}`).toBeGreaterThan(1e-9);
    }
  }
});
