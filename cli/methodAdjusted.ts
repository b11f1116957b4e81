// Defaults that the demo's small encoder, or its one task, cannot take, and what is taken for them.
import type { Model } from '../nn/layer.ts';
import { compacter, compacterPlusPlus } from '../peft/additive/compacter.ts';
import { type CptConfig, cpt } from '../peft/additive/cpt.ts';
import { pTuningTemplate } from '../peft/additive/pTuningTemplate.ts';
import type { Transform } from '../peft/method.ts';
import { arrow } from '../peft/reparameterized/arrow.ts';
import { c3a } from '../peft/reparameterized/c3a.ts';
import { lora } from '../peft/reparameterized/lora.ts';
import { mixtureOfLoras } from '../peft/reparameterized/moleStages.ts';
import { vblora } from '../peft/reparameterized/vblora.ts';
import { xlora } from '../peft/reparameterized/xlora.ts';
import { trainableTokens } from '../peft/selective/trainableTokens.ts';
import { type Demo, SIZES } from './demo.ts';

export interface Adjusted {
  readonly why: string;
  /** `train` trains what is trainable in a model on the task, for what has to be trained before. */
  readonly make: (seed: number, d: Demo, train: (model: Model) => Promise<Model>) => Transform | Promise<Transform>;
}

/** The start of a training text as a worked example: with its letters hidden, then with all of them, of which the hidden ones are the answer. */
export function workedExample(d: Demo, seed: number): Pick<CptConfig, 'ids' | 'types'> {
  const { ids, targets } = d.train(seed)(1);
  const at = Array.from({ length: SIZES.tokens / 2 }, (_, t) => t);
  const answers = at.map((t) => targets.data[t] !== -100);
  return {
    ids: [...at.map((t) => ids.data[t]!), ...at.map((t) => (answers[t] ? targets : ids).data[t]!)],
    types: [...at.map(() => 2), ...at.map((t) => (answers[t] ? 4 : 3))],
  };
}

export const ADJUSTED: Readonly<Record<string, Adjusted>> = {
  compacter: { why: 'bottleneck 4: a 32nd of 64 does not divide by n', make: (seed) => compacter({ bottleneck: 4, seed }) },
  'compacter++': { why: 'bottleneck 4: a 32nd of 64 does not divide by n', make: (seed) => compacterPlusPlus({ bottleneck: 4, seed }) },
  vblora: { why: 'vectors of 64: 256 does not divide the width', make: (seed) => vblora({ vectorLength: 64, seed }) },
  c3a: { why: 'blocks of 16: 256 does not divide the width', make: (seed) => c3a({ blockSize: 16, seed }) },
  arrow: { why: 'its experts are placeholders here, and trained', make: (seed) => arrow({ trainExperts: true, seed }) },
  xlora: { why: 'its experts are placeholders here, and trained', make: (seed) => xlora({ trainExperts: true, seed }) },
  mole: {
    why: 'of its LoRAs one is trained before and three are not, and no balance is asked for: its gates have to find the one',
    make: async (seed, d, train) => {
      const fresh = [0, 1, 2, 3].map((k) => lora({ seed: seed + k })(d.base));
      return mixtureOfLoras([await train(fresh[0]!), ...fresh.slice(1)], { balance: 0, seed });
    },
  },
  cpt: {
    why: 'a worked example of the task is in front',
    make: (seed, d) => cpt({ ...workedExample(d, seed), seed }),
  },
  trainableTokens: {
    why: 'the token is the sign for a hidden letter',
    make: (seed, d) => trainableTokens({ tokens: [d.mask], seed }),
  },
  pTuningTemplate: {
    why: 'the sign for a hidden letter is the template’s trained token',
    make: (seed, d) => pTuningTemplate({ pseudoTokens: [d.mask], seed }),
  },
};
