// Every method on networks whose block matrices are packed in four bits, against the laws.
import { describe, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { methods } from '../../peft/all.ts';
import type { Listed } from '../../peft/listed.ts';
import { int4 } from '../../quant/affine.ts';
import { nf4 } from '../../quant/nf4.ts';
import { inBlocks, quantize, type Scheme } from '../../quant/quantize.ts';
import { type Case, caseOf } from './methodCase.ts';
import { laws } from './methodLaws.ts';
import { gpt2Network, llamaNetwork, type Network } from './models.ts';

const seed = Number(process.env.TINYPEFT_SEED ?? 1);
const engine = float64();
const packed = (net: Network, scheme: Scheme): Network => ({
  ...net,
  name: `${net.name} in ${scheme.name}`,
  base: quantize(net.base, inBlocks, scheme),
});
const nets = [packed(gpt2Network(seed), nf4({ block: 8 })), packed(llamaNetwork(seed), int4({ group: 4 }))];

/**
 * Where they would not differ from the base, as they declare to: LoftQ in four bits loses nothing of weights that are NF4's already, PEQA keeps
 * what is packed by scale and zero point, and a base that is packed is all that `packed` in compositions makes.
 */
const same = (name: string, net: Network): boolean =>
  (name === 'loftq' && net.name.includes('nf4')) ||
  (name === 'peqa' && net.name.includes('int4')) ||
  ['qdylora', 'longQlora'].includes(name);
const fits = (m: Listed, net: Network): boolean => m.unfit[net.name.split(' ')[0]!] === undefined && !same(m.name, net);

for (const method of methods.filter((m) => nets.some((net) => fits(m, net))))
  describe(method.name, () => {
    for (const net of nets.filter((n) => fits(method, n))) {
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
