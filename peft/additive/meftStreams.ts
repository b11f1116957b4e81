// MEFT's two streams as one tensor [2, B, T, d], and a block of them that can be undone.
//   (x₁, x₂) ↦ (y₂, y₁),   y₁ = λ x₁ + F(x₂),  y₂ = β x₂ + G(y₁);   undone: x₂ = (y₂ − G(y₁))/β,  x₁ = (y₁ − F(x₂))/λ
// Liao et al. 2023, arXiv 2306.00477, §3.3.
import { checkpoint, reversible } from '../../core/grad.ts';
import { stack } from '../../core/ops/move.ts';
import type { Tensor } from '../../core/tensor.ts';

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

/** One block. `undo` has the F and G that backward may call: the same functions, without what else a forward pass notes down. */
export function coupledBlock(
  s: Tensor,
  [F, G]: readonly [Map, Map],
  undo: readonly [Map, Map],
  { lambda, beta, keeps }: StreamsConfig,
): Tensor {
  const forth = (x: Tensor): Tensor => {
    const [x1, x2] = both(x);
    const y1 = x1.mul(lambda).add(F(x2));
    return stack([x2.mul(beta).add(G(y1)), y1], 0);
  };
  const back = (y: Tensor): Tensor => {
    const [y2, y1] = both(y);
    const x2 = y2.sub(undo[1](y1)).div(beta);
    return stack([y1.sub(undo[0](x2)).div(lambda), x2], 0);
  };
  if (keeps === 'all') return forth(s);
  return keeps === 'streams' ? checkpoint(forth, s) : reversible(forth, back, s);
}
