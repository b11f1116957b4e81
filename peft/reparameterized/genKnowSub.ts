// General knowledge subtraction: what several LoRAs of general knowledge have in common is taken off a task's LoRA before it is used beside others.
//   A_e ← A_e − mean_g A_g,   B_e ← B_e − mean_g B_g,   the factors each by itself
// GenKnowSub, ACL 2025 (short 54), as built in PEFT.
import { leaf, type Tensor } from '../../core/tensor.ts';
import { atHand } from '../site.ts';
import type { Factors } from './lora.ts';
import type { LoraExperts } from './loraExperts.ts';

/** The experts without what the general LoRAs have in common, at every place. Throws where ranks or places differ. */
export function genKnowSub({ at, configs }: LoraExperts, general: LoraExperts): LoraExperts['at'] {
  if (new Set([...configs, ...general.configs].map((c) => c.rank)).size > 1)
    throw new RangeError('arrowOf: the factors of experts and general LoRAs are subtracted, so all must have one rank');
  const less = (t: Tensor, all: readonly Tensor[]): Tensor => {
    const others = all.map((g) => atHand(g)!);
    return leaf(
      Float64Array.from(atHand(t)!, (v, i) => v - others.reduce((n, o) => n + o[i]!, 0) / others.length),
      t.shape,
    );
  };
  return new Map(
    [...at].map(([path, experts]) => {
      const own = general.at.get(path);
      if (own === undefined) throw new Error(`arrowOf: the general LoRAs have none at ${path}; train them at the experts' places`);
      const minus = (e: Factors): Factors => ({
        A: less(
          e.A,
          own.map((g) => g.A),
        ),
        B: less(
          e.B,
          own.map((g) => g.B),
        ),
      });
      return [path, experts.map(minus)];
    }),
  );
}
