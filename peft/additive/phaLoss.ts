// What PHA's retriever learns from, and what it is asked: which texts are of one task, and which prototype a text is nearest to.
//   instances: −mean over the others of the task of log e^{z·z⁺/ϑ} / Σ_{all others} e^{z·z'/ϑ};   prototypes: −log e^{z·k_τ/ϑ} / Σ_{σ≠τ} e^{z·k_σ/ϑ}
// Zhao et al. 2023, arXiv 2310.11670, §3.2–3.3. The authors' code leaves the own prototype out of the last sum, as written here.
import { logSoftmax } from '../../core/ops/fused.ts';
import { iota, oneHot } from '../../core/ops/index.ts';
import { where as choose, eq, exp, gt, log, max, relu, sqrt, square } from '../../core/ops/map.ts';
import { reshape } from '../../core/ops/move.ts';
import { sum } from '../../core/ops/reduce.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import { pool } from '../../nn/heads.ts';
import type { Batch, Fields, Model } from '../../nn/layer.ts';
import { layers } from '../../nn/tree.ts';
import { answerAndHidden } from './mptRecipe.ts';
import type { Pha } from './phaNetwork.ts';

/** Two layers with ReLU between: x [·, in] → [·, out]. */
export const twice = (x: Tensor, [a, aBias, b, bBias]: readonly Tensor[]): Tensor =>
  relu(x.matmul(a!.T).add(aBias!)).matmul(b!.T).add(bBias!);

/** z [B, e] of the last hidden states [B, T, d]. */
export const retrieved = (h: Tensor, retriever: readonly Tensor[], keyMask: Tensor | null): Tensor =>
  twice(pool(h, keyMask, 'mean'), retriever);

const unit = (x: Tensor): Tensor => x.div(max(sqrt(sum(square(x), [-1], true)), 1e-12));

/** z [B, e], task [B] → one number. Rows that are alone with their task are left out of the mean. */
export function instanceLoss(z: Tensor, task: Tensor, temperature: number): Tensor {
  const b = z.shape[0]!;
  const self = eq(reshape(iota(b), [b, 1]), iota(b));
  const same = eq(reshape(task, [b, 1]), task).sub(self); // [B, B]
  const u = unit(z);
  const p = logSoftmax(choose(self, -1e30, u.matmul(u.T).div(temperature)));
  const friends = sum(same, [1]);
  const each = sum(choose(same, p, 0), [1])
    .div(max(friends, 1))
    .neg();
  return each.sum().div(max(gt(friends, 0).sum(), 1));
}

/** z [B, e], prototypes [K, e], task [B] → one number. */
export function prototypeLoss(z: Tensor, prototypes: Tensor, task: Tensor, temperature: number): Tensor {
  const own = oneHot(task, prototypes.shape[0]!); // [B, K]
  const s = unit(z).matmul(unit(prototypes).T).div(temperature);
  return log(sum(exp(s).mul(own.neg().add(1)), [1]))
    .sub(sum(s.mul(own), [1]))
    .mean();
}

/** Cosines [B, K] of a batch's texts with the prototypes of a model that was trained on several tasks; the largest is the one to start from. */
export function prototypeScores(model: Model, batch: Batch, ctx: Context): Tensor {
  for (const { layer: l } of layers(model))
    if (l.attached?.method === 'pha') {
      const p = l.fields[l.attached.field] as Fields as unknown as Pha;
      if (p.retriever !== undefined)
        return unit(retrieved(answerAndHidden(model, batch, ctx).hidden, p.retriever, batch.keyMask ?? null)).matmul(unit(p.prototypes).T);
    }
  throw new Error(
    'prototypeScores: there is no pha on this model that was trained on several tasks, so nothing retrieves; attach pha({ tasks: … })',
  );
}
