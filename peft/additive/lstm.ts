// One direction of one LSTM layer, from the primitive operations.
//   z = W_x x + b_x + W_h h + b_h = [i; f; g; o];   c ← σ(f) c + σ(i) tanh(g),   h = σ(o) tanh(c)
import { full, sigmoid, tanh } from '../../core/ops/map.ts';
import { concat } from '../../core/ops/move.ts';
import type { Tensor } from '../../core/tensor.ts';

/** One direction of one layer: x [p, n] → h [p, h], in the order of x. */
export function lstm(x: Tensor, [Wx, Wh, bx, bh]: readonly Tensor[], backward: boolean): Tensor {
  const [p, h] = [x.shape[0]!, Wh!.shape[1]!];
  const driven = x.matmul(Wx!.T).add(bx!); // [p, 4h]
  let [hidden, cell] = [full([1, h], 0), full([1, h], 0)];
  const out: Tensor[] = [];
  for (let k = 0; k < p; k++) {
    const t = backward ? p - 1 - k : k;
    const z = driven.slice(0, t, t + 1).add(hidden.matmul(Wh!.T).add(bh!)); // [1, 4h]
    const gate = (n: number): Tensor => z.slice(1, n * h, (n + 1) * h);
    cell = sigmoid(gate(1))
      .mul(cell)
      .add(sigmoid(gate(0)).mul(tanh(gate(2))));
    hidden = sigmoid(gate(3)).mul(tanh(cell));
    out.push(hidden);
  }
  return concat(backward ? out.reverse() : out, 0);
}

/** Of one direction: names and shapes in that order. */
export const lstmShapes = (from: number, h: number): readonly (readonly [name: string, shape: readonly number[]])[] => [
  ['Wx', [4 * h, from]],
  ['Wh', [4 * h, h]],
  ['bx', [4 * h]],
  ['bh', [4 * h]],
];
/** Count: 4h(in + h + 2). */
export const lstmSize = (from: number, h: number): number => 4 * h * (from + h + 2);
