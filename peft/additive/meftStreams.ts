// MEFT's two streams as one tensor [2, B, T, d], and a block of them that can be undone.
//   (x₁, x₂) ↦ (y₂, y₁),   y₁ = λ x₁ + F(x₂),  y₂ = β x₂ + G(y₁);   undone: x₂ = (y₂ − G(y₁))/β,  x₁ = (y₁ − F(x₂))/λ
// Liao et al. 2023, arXiv 2306.00477, §3.3.
import { checkpoint, reversible } from '../../core/grad.ts';
import { concat, stack } from '../../core/ops/move.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import { lastRows } from './blocksHeard.ts';

export interface StreamsConfig {
  readonly lambda: number; // λ
  readonly beta: number; // β
  readonly keeps: 'last' | 'streams' | 'all'; // of the blocks, for backward: the last streams alone; those between blocks; everything
}
type Map = (x: Tensor) => Tensor;

/** The two of them. [B, T, d] each */
export const both = (s: Tensor): [Tensor, Tensor] => {
  const shape = s.shape.slice(1);
  return [s.slice(0, 0, 1).reshape(...shape), s.slice(0, 1).reshape(...shape)];
};

/** [x₁, x₂], [2, B, T, d], and x₂ as the block answered it. */
export interface Streams {
  readonly s: Tensor;
  readonly y1: Tensor;
}
/** The streams into a block that is given x: x twice at first; rows that another method put into the last answer (LPT) are in both. */
export function entered(last: Streams | null, x: Tensor, { positions }: Context): Tensor {
  if (last === null) return stack([x, x], 0);
  if (x === last.y1) return last.s;
  const [x1] = both(last.s);
  const more = x.shape[1]! - x1.shape[1]!;
  if (more <= 0) return stack([lastRows(x1, x.shape[1]!), x], 0);
  const before = Math.max(0, x1.shape[1]! - positions.shape.at(-1)!); // new rows stand next to the text
  const front = before > 0 ? [x1.slice(1, 0, before)] : [];
  return stack([concat([...front, x.slice(1, before, before + more), x1.slice(1, before)], 1), x], 0);
}

/** One block. `undo` has the F and G that backward may call: the same functions, without what else a forward pass notes down. */
export function coupledBlock(
  s: Tensor,
  [F, G]: readonly [Map, Map],
  undo: readonly [Map, Map],
  { lambda, beta, keeps }: StreamsConfig,
): Tensor {
  const forth = (x: Tensor): Tensor => {
    const [x1, x2] = both(x);
    const f = F(x2);
    const y1 = lastRows(x1, f.shape[1]!).mul(lambda).add(f);
    const g = G(y1);
    return stack([lastRows(x2, g.shape[1]!).mul(beta).add(g), lastRows(y1, g.shape[1]!)], 0);
  };
  const back = (y: Tensor): Tensor => {
    const [y2, y1] = both(y);
    const x2 = y2.sub(undo[1](y1)).div(beta);
    return stack([y1.sub(undo[0](x2)).div(lambda), x2], 0);
  };
  if (keeps === 'all') return forth(s);
  return keeps === 'streams' ? checkpoint(forth, s) : reversible(forth, back, s);
}
