// One expert of several, drawn anew in every pass for all rows of a batch: its tensors out of lists over the experts.
// Wang et al. 2022, arXiv 2205.12410, §3.
import { oneHot } from '../../core/ops/index.ts';
import { floor, min } from '../../core/ops/map.ts';
import { stack } from '../../core/ops/move.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';

export const averaged = (all: readonly Tensor[]): Tensor => (all.length === 1 ? all[0]! : stack(all).mean([0]));

/** The expert that this pass has drawn, its weight and bias together; the mean of all where nothing is random. */
export function routed(all: readonly (readonly Tensor[])[], name: string, ctx: Context): Tensor[] {
  const m = all[0]!.length;
  const u = m === 1 ? null : ctx.draw.uniform(name, [1]);
  if (u === null) return all.map(averaged);
  const chosen = oneHot(min(floor(u.mul(m)), m - 1), m); // [1, M]; u may round up to 1
  return all.map((list) => {
    const { shape } = list[0]!;
    return chosen.matmul(stack(list).reshape(m, -1)).reshape(...shape);
  });
}
