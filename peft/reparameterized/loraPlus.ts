// LoRA+: LoRA whose B learns faster than its A.
//   η_B = λ η_A,   λ ≈ 16: with one rate for both, one of the two factors learns too slowly in wide layers
// Hayou et al. 2024, arXiv 2402.12354, §5. The same for a LoRA that is there already: `adamw({ groups: fasterB(16) })`.
import { param, paramOf } from '../../core/tensor.ts';
import type { Group } from '../../optim/groups.ts';
import { defineMethod } from '../attach.ts';
import { checkUpdate, type Factors, factors, type LoraConfig, STARTS, update } from './lora.ts';

export interface LoraPlusConfig extends LoraConfig {
  readonly ratio: number; // λ; the paper finds 2 to 16 good, and a large one wants the optimizer's own rate lower
}

const ratioFits = (ratio: number): number => {
  if (!(ratio > 0)) throw new RangeError(`loraPlus: ratio ${ratio} must be above 0; the paper's is about 16, and 1 is LoRA`);
  return ratio;
};

/** Optimizer groups that do it to any method whose factor is called B (LoRA, DoRA, AdaLoRA): its learning rate times `ratio` (16). */
export const fasterB = (ratio = 16): readonly Group[] => [{ where: /\.B$/, lr: ratioFits(ratio) }];

export const loraPlus = defineMethod<'linear', LoraPlusConfig, Factors>({
  name: 'loraPlus',
  family: 'reparameterized',
  paper: 'arXiv:2402.12354',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, init: 'kaiming', ratio: 16, where: ['q', 'v'] },
  takes: { init: STARTS },
  check: (site, c) => {
    checkUpdate('loraPlus')(site, c);
    ratioFits(c.ratio);
  },
  init: (site, c, r) => {
    const { A, B } = factors(site, c, r);
    return { train: { A, B: param(paramOf(B)!.value, B.shape, { lr: c.ratio }) } };
  },
  ...update,
  startsAsBase: () => 'close', // adds an exact zero
});
