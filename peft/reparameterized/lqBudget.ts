// Which of several ways to pack each weight, so that the total error is least within a budget of bits: LQ-LoRA's integer program, solved exactly.
//   min Σ_i cost[i][k_i]   subject to   Σ_i size[i][k_i] ≤ budget
// Guo et al. 2023, arXiv 2311.12023, §3.2, who give it to a solver. Weight by weight all sums are kept that no other one beats in both size and
// cost; the best that fits is the optimum. Sizes of equal weights add up to few different sums, which is what keeps this small.

interface Sum {
  readonly size: number;
  readonly cost: number;
  readonly last: number; // what the last weight takes
  readonly before: Sum | null;
}

/** k_i of each weight. Throws a RangeError where even the smallest choices are more than the budget, saying what they need. */
export function allocate(costs: readonly (readonly number[])[], sizes: readonly (readonly number[])[], budget: number): number[] {
  const least = sizes.map((s) => Math.min(...s));
  const rest = least.map((_, i) => least.slice(i + 1).reduce((a, b) => a + b, 0)); // what the weights after i need at least
  let sums: Sum[] = [{ size: 0, cost: 0, last: -1, before: null }];
  for (const [i, options] of costs.entries()) {
    const all = sums
      .flatMap((before) =>
        options.map((cost, k): Sum => ({ size: before.size + sizes[i]![k]!, cost: before.cost + cost, last: k, before })),
      )
      .filter((s) => s.size + rest[i]! <= budget)
      .sort((a, b) => a.size - b.size || a.cost - b.cost);
    sums = [];
    for (const s of all) if (sums.length === 0 || s.cost < sums.at(-1)!.cost) sums.push(s); // larger, so it must be better
  }
  const best = sums.at(-1);
  if (best === undefined)
    throw new RangeError(`allocate: the smallest choices need ${least.reduce((a, b) => a + b, 0)} bits, and the budget is ${budget}`);
  const chosen: number[] = [];
  for (let s: Sum | null = best; s !== null && s.before !== null; s = s.before) chosen.unshift(s.last);
  return chosen;
}
