// What a branch's answer is added to, for methods that read it.
import type { Tensor } from '../../core/tensor.ts';
import type { Context, Residual } from '../../nn/context.ts';

/** What a branch's answer is added to, where the block has said so. [B, T, d] */
export function residualOf({ residual }: Context, method: string, path: string): Residual {
  if (residual === undefined)
    throw new Error(
      `${method} at ${path}: the context does not say what this branch is added to, and the adapter reads that; run the branch within its block`,
    );
  return residual;
}

export const streamOf = (ctx: Context, method: string, path: string): Tensor => residualOf(ctx, method, path).stream;
