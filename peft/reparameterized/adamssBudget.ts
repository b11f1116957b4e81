// AdaMSS's budget: what a cluster's update is worth, and how many clusters of all layers together go on being trained.
//   score of cluster k: mean Ī·Ū over A_k + mean over B_k, Ī and Ū its importance (adamssImportance.ts)
//   every `interval` steps from `from` to `to`:  n = ⌊target + (all − target)(1 − (t − from)/(to − from))^exponent⌋; those whose score is not above
//   the n-th best stop where they are, for good (n − 1 go on, as PEFT compares); Ī and Ū start anew
// As in PEFT 0.21 (update_and_allocate).
import { type Data, type Param, paramOf } from '../../core/tensor.ts';
import type { Controller } from '../../nn/hooks.ts';
import { between, wholeNumber } from '../check.ts';
import type { Adamss } from './adamss.ts';

export interface AdamssBudget {
  readonly target: number; // clusters of all layers together in the end
  readonly from: number; // first step that counts
  readonly to: number; // last step that counts
  readonly interval: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly exponent: number;
}
export function checkBudget(b: AdamssBudget): void {
  for (const name of ['target', 'interval', 'from'] as const) wholeNumber('adamss', `budget.${name}`, b[name]);
  for (const name of ['beta1', 'beta2'] as const) between('adamss', `budget.${name}`, b[name], 0, 1);
  between('adamss', 'budget.exponent', b.exponent, Number.MIN_VALUE, Number.MAX_VALUE);
  if (!(b.to > b.from)) throw new RangeError(`adamss: the budget shrinks from step ${b.from} to ${b.to}; the second must be larger`);
}

/** Stops the clusters that are worth least, in all layers together. */
export const sharedSubspaces = (at: readonly { readonly own: Adamss }[], b: AdamssBudget): Controller => {
  const layers = at.map(({ own }) => ({
    on: paramOf(own.on)!,
    average: own.average.map((t) => paramOf(t)!),
    spread: own.spread.map((t) => paramOf(t)!),
  }));
  const anew = (): Map<Param, Data> =>
    new Map(layers.flatMap((l) => [...l.average, ...l.spread].map((p) => [p, new Float32Array(p.value.length)] as const)));
  return {
    after: async ({ step }, read) => {
      if (step === b.from - 1) return anew();
      if (step < b.from || step > b.to || step % b.interval !== 0) return null;
      const now = await read(layers.flatMap((l) => [l.on, ...l.average, ...l.spread]));
      const mean = (p: Param, q: Param): number => Array.from(now.get(p)!).reduce((n, v, i) => n + v * now.get(q)![i]!, 0) / p.value.length;
      const scores = layers.flatMap((l) =>
        Array.from(now.get(l.on)!, (on, k) => {
          const [a, o] = [k, k + l.on.value.length]; // A's, then B's
          return { l, k, on: on === 1, score: mean(l.average[a]!, l.spread[a]!) + mean(l.average[o]!, l.spread[o]!) };
        }),
      );
      const live = scores.filter((s) => s.on);
      const share = 1 - (step - b.from) / (b.to - b.from);
      const wanted = Math.floor(b.target + (scores.length - b.target) * share ** b.exponent);
      const threshold = wanted >= live.length ? Number.NEGATIVE_INFINITY : live.map((s) => s.score).sort((x, y) => y - x)[wanted - 1]!;
      const write = anew();
      for (const l of layers)
        write.set(
          l.on,
          Float32Array.from(
            scores.filter((s) => s.l === l),
            (s) => (s.on && s.score > threshold ? 1 : 0),
          ),
        );
      return write;
    },
  };
};
