// What a network beside a frozen one reads of it: what enters and what leaves each block.
import { pad } from '../../core/ops/move.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import { BASE, type Layer, layer } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';

/** A block's h_i and h_{i+1}, [B, T, d] each, and the context it ran in. */
export interface Heard {
  readonly into: Tensor;
  readonly out: Tensor;
  readonly ctx: Context;
}

/**
 * The last rows of h, n of them: the text stands at the end, and what a method beneath put in front of it between two blocks is not in
 * all of them. Rows that h has not are 0.
 */
export function lastRows(h: Tensor, n: number): Tensor {
  const more = h.shape[1]! - n;
  return more === 0 ? h : more > 0 ? h.slice(1, more) : pad(h, 1, -more, 0);
}

/** The trunk's answer to h, and what each of its blocks said on the way. An answer that is not used is never computed. */
export function blocksHeard(call: Layer<'trunk'>, h: Tensor, ctx: Context): { readonly answer: Tensor; readonly heard: readonly Heard[] } {
  const heard: Heard[] = [];
  const listening = substitute(call, 'block', (l) =>
    layer('block', { [BASE]: l }, ({ [BASE]: l }) => (into, at) => {
      const out = l(into, at);
      heard.push({ into, out, ctx: at });
      return out;
    }),
  );
  return { answer: listening(h, ctx), heard };
}
