// MOELoRA's gate: what it makes of a row's task, one weight for every expert, written once for each of the expert's ranks.
//   ω_t = softmax(G v_t),   v_t ∈ ℝ^d for each task, G ∈ ℝ^{N×d}
import { softmax } from '../../core/ops/fused.ts';
import { gather } from '../../core/ops/index.ts';
import { broadcastTo } from '../../core/ops/move.ts';
import type { Rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import type { MoeloraConfig } from './moelora.ts';

export type Gate = { tasks: Tensor; gate: Tensor }; // v [tasks, d], G [N, d]

/** v ~ N(0, 1) and G ~ U(±1/√d). */
export const newGate = ({ tasks, experts, taskWidth: d }: MoeloraConfig, r: Rng): Gate => ({
  tasks: param(r.split('tasks').normal(tasks * d), [tasks, d]),
  gate: param(r.split('gate').uniform(experts * d, -1 / Math.sqrt(d), 1 / Math.sqrt(d)), [experts, d]),
});
/** ω of each rank, for the given tasks or for all: [R, r]. */
export function weights({ tasks, gate }: Gate, { rank, experts }: MoeloraConfig, of: Tensor | null): Tensor {
  const rows = of === null ? tasks : gather(tasks, of);
  const w = softmax(rows.matmul(gate.T)).reshape(-1, experts, 1); // [R, N, 1]
  return broadcastTo(w, [w.shape[0]!, experts, rank / experts]).reshape(-1, rank);
}
