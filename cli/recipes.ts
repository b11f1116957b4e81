// How `npm start` sets up each method for a small encoder: options, and the learning rate that a validation part chose
// (docs/decisions/090-main-job.md).

import { unfreeze } from '../nn/freeze.ts';
import type { Model } from '../nn/layer.ts';
import { houlsby } from '../peft/additive/houlsby.ts';
import { ia3 } from '../peft/additive/ia3.ts';
import { parallelAdapter } from '../peft/additive/parallelAdapter.ts';
import { prefixTuning } from '../peft/additive/prefixTuning.ts';
import type { Transform } from '../peft/method.ts';
import { adalora } from '../peft/reparameterized/adalora.ts';
import { dora } from '../peft/reparameterized/dora.ts';
import { lora } from '../peft/reparameterized/lora.ts';
import { pissa } from '../peft/reparameterized/pissa.ts';
import { vera } from '../peft/reparameterized/vera.ts';
import { bitfit } from '../peft/selective/bitfit.ts';

export interface Asked {
  readonly rank: number;
  readonly where: readonly string[]; // linear layers, for the methods that go to them
  readonly seed: number;
  readonly steps: number; // of training in all
}
export interface Recipe {
  readonly lr: number;
  /** Whether rank and where mean anything to it. */
  readonly ranked: boolean;
  /** What to attach, or null: everything is trained. */
  readonly transform: (o: Asked) => Transform | null;
}

export const recipes: Readonly<Record<string, Recipe>> = {
  lora: { lr: 3e-3, ranked: true, transform: ({ rank, where, seed }) => lora({ rank, alpha: 2 * rank, where, seed }) },
  dora: { lr: 3e-3, ranked: true, transform: ({ rank, where, seed }) => dora({ rank, alpha: 2 * rank, where, seed }) },
  adalora: {
    lr: 5e-3,
    ranked: true,
    transform: ({ rank, where, seed, steps }) =>
      adalora({
        rank: Math.ceil(1.5 * rank),
        targetRank: rank,
        alpha: 2 * rank,
        tinit: Math.floor(steps / 10),
        tfinal: Math.floor(steps / 4),
        where,
        seed,
      }),
  },
  vera: { lr: 2e-2, ranked: true, transform: ({ rank, where, seed }) => vera({ rank: 32 * rank, where, seed }) },
  pissa: { lr: 1e-3, ranked: true, transform: ({ rank, where, seed }) => pissa({ rank, alpha: rank, iterations: 8, where, seed }) },
  ia3: { lr: 2e-2, ranked: false, transform: () => ia3() },
  bitfit: { lr: 5e-3, ranked: false, transform: () => bitfit({ where: /^trunk.*\.bias$/ }) },
  houlsby: { lr: 2e-3, ranked: false, transform: ({ seed }) => houlsby({ seed }) },
  parallelAdapter: { lr: 1e-3, ranked: false, transform: ({ seed }) => parallelAdapter({ bottleneck: 16, scale: 2, seed }) },
  prefixTuning: { lr: 2e-3, ranked: false, transform: ({ seed }) => prefixTuning({ length: 8, bottleneck: 128, seed }) },
  full: { lr: 1e-4, ranked: false, transform: () => null },
};

/** The classifier with the recipe's method on its frozen base. */
export const prepared = async (
  model: Model,
  recipe: Recipe,
  asked: Asked,
  engine: Parameters<Transform['prepare']>[1]['engine'],
): Promise<Model> => {
  const transform = recipe.transform(asked);
  return transform === null ? unfreeze(model, () => true) : (await transform.prepare(model, { engine }))(model);
};
