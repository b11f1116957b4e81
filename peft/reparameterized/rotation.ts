// What methods that rotate a layer's input share: which block sizes fit, and blocks that are left out in training.
import { where } from '../../core/ops/map.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import type { Site } from '../site.ts';
import { identity } from '../transforms.ts';

/** The block size divides the layer's input into `of` blocks at a time, or an error that names the sizes that do. */
export function blockFits(method: string, { path, shape: [, into] }: Site<'linear'>, blockSize: number, of = 1): void {
  const sizes = Array.from({ length: into! / of }, (_, k) => k + 1).filter((b) => b > 1 && into! % (b * of) === 0);
  if (!sizes.includes(blockSize))
    throw new RangeError(
      `${method}: blockSize ${blockSize} does not divide the input of ${path}, which has ${into} features${of > 1 ? ` and takes ${of} blocks at a time` : ''}; sizes that do: ${sizes.slice(0, 12).join(', ') || 'none'}`,
    );
}

/** R [n, b, b] with blocks replaced by I at random in training. Each block is drawn by itself; PEFT draws a fixed number of them. */
export function keptBlocks(r: Tensor, dropout: number, field: string, ctx: Context): Tensor {
  const [n, b] = r.shape as [number, number];
  const kept = dropout === 0 ? null : ctx.draw.bernoulli(field, [n, 1, 1], 1 - dropout);
  return kept === null ? r : where(kept, r, identity(b));
}
