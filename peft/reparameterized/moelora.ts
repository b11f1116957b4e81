// MOELoRA: a LoRA cut into N experts of rank r/N, which a gate that knows only the row's task weighs.
//   y = W x + b + (α/r)·Σ_e ω_te B_e A_e drop(x),   ω_t = softmax(G v_t),   A_e ∈ ℝ^{r/N×in}, B_e ∈ ℝ^{out×r/N}, v_t ∈ ℝ^d, G ∈ ℝ^{N×d}
//   A ~ N(0, 0.01²), B = 0, v ~ N(0, 1), G ~ U(±1/√d);   v and G are one for all layers, or each layer's own (`gates: 'each'`)
// Liu et al. 2024 (SIGIR), arXiv 2310.18339, §4, and the authors' code: α = 32, dropout 0.1 and N = 8 of r = 16 at q, k, v and the dense layers.
import { input, param } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import { checkUpdate, dropped, type Factors, scaling, type UpdateConfig } from './lora.ts';
import { type Gate, newGate, weights } from './moeloraGate.ts';

export interface MoeloraConfig extends UpdateConfig {
  readonly experts: number; // N, divides the rank
  readonly tasks: number; // with more than one the task of each row is fed as `task` [B]
  readonly taskWidth: number; // d of a task's vector
  readonly gates: 'one' | 'each';
}
/**
 * The gate is read once for a row, so all its tokens have the same experts. With one task it merges; with several the update is
 * another for each row. Count: r(in + out) for each layer, and d(tasks + N) for each gate.
 */
export const moelora = defineMethod<'linear', MoeloraConfig, Factors & Gate, Gate>({
  name: 'moelora',
  family: 'reparameterized',
  paper: 'arXiv:2310.18339',
  at: 'linear',
  defaults: {
    ...{ rank: 16, alpha: 32, rankStabilized: false, dropout: 0.1 },
    ...{ experts: 8, tasks: 1, taskWidth: 64, gates: 'one' },
    where: ['q', 'v'],
  },
  takes: { gates: ['one', 'each'] },
  check: (site, c) => {
    checkUpdate('moelora')(site, c);
    for (const name of ['experts', 'tasks', 'taskWidth'] as const) wholeNumber('moelora', name, c[name]);
    if (c.rank % c.experts !== 0)
      throw new RangeError(`moelora: ${c.experts} experts at ${site.path} must divide the rank ${c.rank}; each gets an equal slice of it`);
  },
  shared: (_, c, r) => newGate(c, r),
  init: ({ shape: [out, into] }, c, r, { shared }) => ({
    train: {
      A: param(r.split('A').normal(c.rank * into!, 0.01), [c.rank, into!]),
      B: param(new Float32Array(out! * c.rank), [out!, c.rank]),
      ...(c.gates === 'one' ? shared : newGate(c, r)),
    },
  }),
  around: (call, p, c, site) => (x, ctx) => {
    const y = call(x, ctx);
    const rows = x.shape[0]!;
    const w = weights(p, c, c.tasks === 1 ? null : input('task', [rows])); // [1 or B, r]
    const flat = dropped(x, c, site, ctx).reshape(rows, -1, x.shape.at(-1)!);
    const low = flat.matmul(p.A.T).mul(w.reshape(-1, 1, c.rank)); // [B, T, r]
    return y.add(
      low
        .matmul(p.B.T)
        .mul(scaling(c))
        .reshape(...y.shape),
    );
  },
  fold: ({ weight, bias }, p, c, site) => {
    if (c.tasks !== 1)
      throw new Error(
        `moelora at ${site.path}: its update is another for each of ${c.tasks} tasks, so no one weight has it; keep it attached, or train it with tasks: 1`,
      );
    return {
      weight: weight.add(
        p.B.mul(weights(p, c, null))
          .matmul(p.A)
          .mul(scaling(c)),
      ),
      bias,
    };
  },
  count: (sites, { rank, experts, tasks, taskWidth, gates }) => {
    const factors = sites.reduce((n, { shape: [out, into] }) => n + rank * (out! + into!), 0);
    const train = factors + (gates === 'one' ? 1 : sites.length) * taskWidth * (tasks + experts);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
