// AdaLoRA's budget: what a triplet is worth, and how many all layers together keep after each step.
//   importance of a scalar w: I = |w·∂w|,  Ī ← β₁Ī + (1−β₁)I,  Ū ← β₂Ū + (1−β₂)|I − Ī|,  score Ī·Ū
//   score of triplet j: score(E_j) + mean score(A_j·) + mean score(B_·j); the lowest are masked, E_j ← 0, and may grow again
//   b(t) = bᵀ + (b⁰ − bᵀ)(1 − (t − t_i)/(T − t_f − t_i))³ between the first t_i and the last t_f steps
// Zhang et al. 2023, arXiv 2303.10512, §3. After each step: new values, then importance, then the budget, as the authors do.
import { abs, full } from '../../core/ops/map.ts';
import { type Data, type Param, paramOf, type Tensor } from '../../core/tensor.ts';
import type { Controller, Hooks } from '../../nn/hooks.ts';

export interface BudgetConfig {
  readonly rank: number; // k, triplets of each layer at first
  readonly targetRank: number; // mean number of triplets per layer at the end
  readonly tinit: number; // steps before the budget shrinks
  readonly tfinal: number; // last steps, with the mask fixed
  readonly deltaT: number; // steps between two maskings
  readonly beta1: number;
  readonly beta2: number;
}
/** Buffers: Ī and Ū of A, E and B in this order, the triplets' scores [k, 1], and 1 for triplets that may be used in the end. */
export type Adalora = Record<'A' | 'E' | 'B' | 'score' | 'kept', Tensor> & Record<'average' | 'spread', readonly Tensor[]>;

/** How many triplets all n matrices together keep after step t: b⁰, then a cubic down to bᵀ, then bᵀ. */
export function budget(t: number, total: number, c: BudgetConfig, n: number): number {
  const [b0, bT, end] = [n * c.rank, n * c.targetRank, total - c.tfinal];
  if (t <= c.tinit) return b0;
  return t >= end ? bT : Math.floor(bT + (b0 - bT) * (1 - (t - c.tinit) / (end - c.tinit)) ** 3);
}

/** New averages, the triplets' scores, and E masked for good once the budget is reached. */
export function importance(
  p: Adalora,
  c: BudgetConfig,
  { grad, next }: Parameters<NonNullable<Hooks['afterStep']>>[0],
): Map<Param, Tensor> {
  const updates = new Map<Param, Tensor>();
  const [a, e, b] = [p.A, p.E, p.B].map((t, k) => {
    const [w, average, spread] = [t, p.average[k]!, p.spread[k]!].map((x) => paramOf(x)!) as [Param, Param, Param];
    const now = grad.has(w) ? abs(next(w).mul(grad.get(w)!)) : full(w.shape, 0); // I
    const mean = p.average[k]!.mul(c.beta1).add(now.mul(1 - c.beta1)); // Ī
    const unsure = p.spread[k]!.mul(c.beta2).add(abs(now.sub(mean)).mul(1 - c.beta2)); // Ū
    updates.set(average, mean).set(spread, unsure);
    return mean.mul(unsure);
  }) as [Tensor, Tensor, Tensor];
  const E = paramOf(p.E)!;
  return updates.set(paramOf(p.score)!, e.add(a.mean([1], true)).add(b.mean([0], true).T)).set(E, next(E).mul(p.kept));
}

/** Masks the triplets that are worth least, in all layers together, as the budget shrinks. */
export const sharedBudget = (at: readonly { readonly own: Adalora }[], c: BudgetConfig): Controller => ({
  begin: (total) => {
    if (!Number.isFinite(total))
      throw new RangeError('adalora: the budget depends on how many steps there will be; tell the trainer its total');
    if (total - c.tfinal <= c.tinit)
      throw new RangeError(
        `adalora: ${total} steps leave none between tinit ${c.tinit} and the last tfinal ${c.tfinal} for the budget to shrink in; train longer, or lower them`,
      );
  },
  after: async ({ step, total }, read) => {
    const end = total - c.tfinal;
    const drop = at.length * c.rank - budget(step, total, c, at.length);
    if (drop === 0 || step > end || (step < end && step % c.deltaT !== 0)) return null;
    const live = at.map(({ own }) => ({ E: paramOf(own.E)!, score: paramOf(own.score)!, kept: paramOf(own.kept)! }));
    const now = await read(live.flatMap(({ E, score }) => [E, score]));
    const threshold = live.flatMap(({ score }) => [...now.get(score)!]).sort((x, y) => x - y)[drop - 1]!;
    const write = new Map<Param, Data>();
    for (const { E, score, kept } of live) {
      const stays = now.get(score)!.map((s) => (s > threshold ? 1 : 0)); // equal scores go together
      write.set(
        E,
        now.get(E)!.map((v, j) => v * stays[j]!),
      );
      if (step === end) write.set(kept, stays); // from here on E is masked after every step
    }
    return write;
  },
});
