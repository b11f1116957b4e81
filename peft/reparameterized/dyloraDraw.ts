// The rank DyLoRA trains in a step: one b for all layers, evenly from all ranks or from those named.
import { add, eq, floor, min } from '../../core/ops/map.ts';
import { within } from '../../core/scope.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import type { DyloraConfig } from './dylora.ts';

/** This step's b as a number in a tensor [1], or null where nothing is random. */
export function drawn({ rank, rankMin, ranks }: DyloraConfig, field: string, ctx: Context): Tensor | null {
  const u = within({ path: '' }, () => ctx.draw.uniform(field, [1])); // no layer's path in its name: the same for all
  if (u === null) return null;
  if (ranks === null) return min(floor(u.mul(rank - rankMin + 1)).add(rankMin), rank);
  const which = min(floor(u.mul(ranks.length)), ranks.length - 1);
  return ranks.map((b, k) => eq(which, k).mul(b)).reduce(add);
}
