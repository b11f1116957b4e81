// MPT, multitask prompt tuning: one prompt for all tasks, multiplied for each task by a low-rank matrix of its own.
//   P_k = P* ⊙ (U_k V_k),   U_k ∈ ℝ^{p×R}, V_k ∈ ℝ^{R×d};   h = trunk([P_k; embed(x)])[p:], k the task of the row
// Wang et al. 2023, arXiv 2303.02861, §3.
import { gather } from '../../core/ops/index.ts';
import { reshape } from '../../core/ops/move.ts';
import { input, param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { lengthFits, wholeNumber } from '../check.ts';
import { promptInFront } from './promptRows.ts';

export interface MptConfig {
  readonly length: number; // p
  readonly tasks: number; // K; with more than one the task of each row is fed as `task` [B]
  readonly ranks: number; // R
}
/** P [p, d], U [K, p·R] and V [K, R·d], a task in each row. Finished, a single task is its P_k alone. */
type Mpt = { readonly P: Tensor; readonly U?: Tensor; readonly V?: Tensor };

/** P_k of the one task [p, d], or of each row's task [B, p, d]. */
function promptOf({ P, U, V }: Mpt, { tasks, ranks }: MptConfig, rows: number): Tensor {
  if (!U || !V) return P;
  const [p, d] = P.shape as readonly [number, number];
  if (tasks === 1) return P.mul(reshape(U, [p, ranks]).matmul(reshape(V, [ranks, d])));
  const task = input('task', [rows]);
  return P.mul(reshape(gather(U, task), [rows, p, ranks]).matmul(reshape(gather(V, task), [rows, ranks, d])));
}

/**
 * Source tasks are trained together (K tasks), with `mptLoss` (mptRecipe.ts) from prompts that were trained task by task; a target task
 * starts from P* and a task's U and V, or their mean over the tasks (`mptTarget`), and trains all of it. U, V ~ N(0, 0.02²) as in
 * Hugging Face PEFT, so that prompts start near zero. Count: pd + K·R(p + d); p·d stored for one task.
 */
export const mpt = defineMethod<'trunk', MptConfig, Mpt>({
  name: 'mpt',
  family: 'additive',
  paper: 'arXiv:2303.02861',
  at: 'trunk',
  defaults: { length: 20, tasks: 1, ranks: 1, where: 'trunk' },
  check: (site, c) => {
    lengthFits('mpt', site, c.length);
    for (const name of ['length', 'tasks', 'ranks'] as const) wholeNumber('mpt', name, c[name]);
  },
  init: (site, { length: p, tasks, ranks }, r) => {
    const d = site.dim('width');
    return {
      train: {
        P: param(r.split('P').normal(p * d), [p, d]),
        U: param(r.split('U').normal(tasks * p * ranks, 0.02), [tasks, p * ranks]),
        V: param(r.split('V').normal(tasks * ranks * d, 0.02), [tasks, ranks * d]),
      },
    };
  },
  around: (call, t, c) => (h, ctx) => promptInFront(call, promptOf(t, c, h.shape[0]!))(h, ctx),
  finish: (t, c) => (c.tasks === 1 ? { P: promptOf(t, c, 1) } : t),
  count: (sites, { length: p, tasks, ranks }) => {
    const each = sites.map((s) => s.dim('width'));
    const train = each.reduce((n, d) => n + p * d + tasks * ranks * (p + d), 0);
    return { train, stored: tasks === 1 ? each.reduce((n, d) => n + p * d, 0) : train };
  },
  startsAsBase: () => 'no',
});
