// LoRAHub: adapters of other tasks put together for a new one, by a search of one coefficient each on a few examples, without gradients.
//   Â = Σ w_i A_i,  B̂ = Σ w_i B_i,  w_i ∈ [−1.5, 1.5] from 0;   objective = loss of a few examples + 0.05·mean|w|
// Huang et al. 2023, arXiv 2307.13269, §2. The authors' code runs nevergrad's NGOpt; here a (1+1) evolution strategy with the one-fifth rule.
import { rng } from '../../core/rng.ts';
import type { Model } from '../../nn/layer.ts';
import { type Adapter, attachAdapter, weightedSum } from '../arithmetic.ts';
import { wholeNumber } from '../check.ts';

export interface HubOptions {
  readonly steps: number; // evaluations after the first
  readonly bound: number; // |w_i| at most
  readonly penalty: number; // times mean |w|
  readonly sigma: number; // deviation of the first steps
  readonly seed: number;
}

/** Σ w_i A_i and Σ w_i B_i at every place, in the adapters' own scale. They must have equal places, ranks and scales. */
export function composed(adapters: readonly Adapter[], w: readonly number[]): Adapter {
  const first = adapters[0];
  if (first === undefined || adapters.length !== w.length)
    throw new RangeError(`loraHub: ${adapters.length} adapters need as many coefficients, got ${w.length}`);
  return new Map(
    [...first].map(([path, { rank, scale }]) => {
      const pairs = adapters.map((a) => a.get(path));
      const same = pairs.flatMap((p) => (p !== undefined && p.rank === rank && p.scale === scale ? [p] : []));
      if (same.length < pairs.length || adapters.some((a) => a.size !== first.size))
        throw new RangeError(`loraHub: the adapters differ in place, rank or scale at ${path}; LoRAHub adds factors of equal LoRAs`);
      const sum = (of: 'a' | 'b'): Float64Array =>
        weightedSum(
          same.map((p) => p[of]),
          w,
          rng(0),
        );
      return [path, { a: sum('a'), b: sum('b'), rank, scale }] as const;
    }),
  );
}

/** The best coefficients found, the model with them, and their objective. `loss` measures a model on the few examples; the same seed searches the same way. */
export async function loraHub(
  base: Model,
  adapters: readonly Adapter[],
  loss: (model: Model) => Promise<number>,
  options: Partial<HubOptions> = {},
): Promise<{ readonly weights: readonly number[]; readonly model: Model; readonly objective: number }> {
  const { steps, bound, penalty, sigma, seed } = { steps: 40, bound: 1.5, penalty: 0.05, sigma: 0.5, seed: 0, ...options };
  wholeNumber('loraHub', 'steps', steps);
  const judge = async (weights: readonly number[]): Promise<{ weights: readonly number[]; model: Model; objective: number }> => {
    const model = attachAdapter(base, composed(adapters, weights));
    return { weights, model, objective: (await loss(model)) + (penalty * weights.reduce((n, v) => n + Math.abs(v), 0)) / weights.length };
  };
  let best = await judge(adapters.map(() => 0));
  let width = sigma;
  const r = rng(seed).split('loraHub');
  for (let k = 0; k < steps; k++) {
    const noise = r.normal(adapters.length, width);
    const next = await judge(best.weights.map((v, i) => Math.min(Math.max(v + noise[i]!, -bound), bound)));
    const better = next.objective < best.objective;
    width *= better ? Math.exp(0.8) : Math.exp(-0.2); // one success in five keeps the width
    if (better) best = next;
  }
  return best;
}
