// TPT's projector: prompts of one network into the space of another.
//   P = LN(W₂ σ(W₁ vec(P_s) + b₁) + b₂), row by row
// Su et al. 2022, arXiv 2111.06719, §5, and the authors' code.
import { layerNorm } from '../../core/ops/fused.ts';
import { max, tanh } from '../../core/ops/map.ts';
import { reshape } from '../../core/ops/move.ts';
import type { Tensor } from '../../core/tensor.ts';

export interface TptConfig {
  readonly length: number; // p, of both prompts
  readonly sourceWidth: number | null; // d_s; null: the target's own width
  readonly hidden: number; // m
  readonly activation: 'leakyRelu' | 'tanh'; // σ
  readonly norm: boolean; // LN; the authors' later code is without
}
/** source [1, p, d_s], fixed. Finished, P alone. */
export type Tpt = { readonly P?: Tensor } & Partial<Record<'W1' | 'b1' | 'W2' | 'b2' | 'gain' | 'shift' | 'source', Tensor>>;

/** The projection of prompts [N, p, d_s] → [N, p, d]. */
export function projected(t: Tpt, prompts: Tensor, { activation, length: p }: TptConfig): Tensor {
  const [n, , from] = prompts.shape as readonly [number, number, number];
  const x = reshape(prompts, [n, p * from])
    .matmul(t.W1!.T)
    .add(t.b1!); // [N, m]
  const rows = (activation === 'tanh' ? tanh(x) : max(x, x.mul(0.01))).matmul(t.W2!.T).add(t.b2!); // [N, p·d]
  const cut = reshape(rows, [n, p, rows.shape[1]! / p]);
  return t.gain === undefined ? cut : layerNorm(cut, t.gain, t.shift!);
}
