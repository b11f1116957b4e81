// The two stages of MPT: source tasks distilled from prompts trained task by task, and a target task that starts from them.
//   loss + λ (KL(teacher ‖ student) over the classes + mean (h_teacher − h_student)²);   target: P* with U, V of a task or their mean
// Wang et al. 2023, arXiv 2303.02861, §3.2–3.3.
import { logSoftmax, softmax } from '../../core/ops/fused.ts';
import { square, stopGradient, sub } from '../../core/ops/map.ts';
import { mean, sum } from '../../core/ops/reduce.ts';
import { show } from '../../core/shape.ts';
import { param, paramOf, type Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import { BASE, type Batch, type Fields, layer, type Model } from '../../nn/layer.ts';
import { rewrite, substitute } from '../../nn/tree.ts';

/** What a model answers, and the last hidden states [B, T, d] it answers from. */
export function answerAndHidden(model: Model, batch: Batch, ctx: Context): { readonly logits: Tensor; readonly hidden: Tensor } {
  const seen: Tensor[] = [];
  const listening = substitute(model, 'trunk', (l) =>
    layer('trunk', { [BASE]: l }, ({ [BASE]: l }) => (h, c) => {
      const y = l(h, c);
      seen.push(y);
      return y;
    }),
  );
  const logits = listening(batch, ctx);
  return { logits, hidden: seen.at(-1)! };
}

/** λ = 0.9 in the paper. Added to the task's own loss; the teacher is only read. Logits [..., C]. */
export function distillation(student: Model, teacher: Model, batch: Batch, ctx: Context, lambda = 0.9): Tensor {
  const [s, t] = [answerAndHidden(student, batch, ctx), answerAndHidden(teacher, batch, ctx)];
  const [target, known] = [stopGradient(t.logits), stopGradient(t.hidden)];
  const kl = mean(sum(softmax(target).mul(sub(logSoftmax(target), logSoftmax(s.logits))), [-1]));
  return kl.add(mean(square(s.hidden.sub(known)))).mul(lambda);
}

/**
 * `target` (mpt with one task, just attached) with P* of `source` and the U and V of one of its tasks, or their mean over all tasks. All
 * of it goes on training.
 */
export function mptTarget(target: Model, source: Model, task: number | 'mean'): Model {
  const found = mptOf(source);
  const [tasks] = found.U.shape as readonly [number];
  if (task !== 'mean' && !(Number.isInteger(task) && task >= 0 && task < tasks))
    throw new RangeError(`mptTarget: there is no source task ${task}; they are 0 … ${tasks - 1}, or 'mean'`);
  const rowOf = (t: Tensor): Float32Array => {
    const { value } = paramOf(t)!;
    const n = t.shape[1]!;
    return Float32Array.from({ length: n }, (_, k) =>
      task === 'mean' ? Array.from({ length: tasks }, (_, r) => value[r * n + k]!).reduce((a, v) => a + v) / tasks : value[task * n + k]!,
    );
  };
  return rewrite(target, (l) => {
    if (l.attached?.method !== 'mpt') return null;
    const own = l.fields[l.attached.field] as Fields as unknown as typeof found;
    for (const k of ['P', 'U', 'V'] as const)
      if (k === 'P' ? show(own.P.shape) !== show(found.P.shape) : own[k].shape[0] !== 1 || own[k].shape[1] !== found[k].shape[1])
        throw new RangeError(
          `mptTarget: ${k} is ${show(own[k].shape)} in the target and ${show(found[k].shape)} in the source; use one length, the same ranks, and tasks: 1`,
        );
    const P = param(paramOf(found.P)!.value.slice(), found.P.shape);
    return l.with({
      ...l.fields,
      [l.attached.field]: { P, U: param(rowOf(found.U), [1, found.U.shape[1]!]), V: param(rowOf(found.V), [1, found.V.shape[1]!]) },
    });
  });
}
function mptOf(model: Model): { readonly P: Tensor; readonly U: Tensor; readonly V: Tensor } {
  const found: Fields[] = [];
  rewrite(model, (l) => {
    if (l.attached?.method === 'mpt') found.push(l.fields[l.attached.field] as Fields);
    return null;
  });
  const own = found[0] as { readonly P: Tensor; readonly U: Tensor; readonly V: Tensor } | undefined;
  if (own?.U === undefined)
    throw new Error('mptTarget: the source model has no mpt on it that can still be trained; attach and train mpt({ tasks: … }) first');
  return own;
}
