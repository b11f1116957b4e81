// Poly (Polytropon): an inventory of S low-rank skills beside a linear layer, and for every task the share it has of each skill.
//   y = W x + b + (1/r)·B_t A_t x,   A_t = Σ_s w_ts A_s,  B_t = Σ_s w_ts B_s,   w_t = z_t / Σ_s z_ts,   z_t = sigmoid(logits_t)
//   in training z_t = sigmoid(logits_t + log u − log(1 − u)), u ~ U(0, 1) for each row of the batch: a relaxed Bernoulli of temperature 1
// Ponti et al. 2022, arXiv 2202.13914; several heads (splits): Caccia et al. 2022, arXiv 2211.03831.
import { gather } from '../../core/ops/index.ts';
import { reshape } from '../../core/ops/move.ts';
import { input, param } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { rankFits, wholeNumber } from '../check.ts';
import { mixed, type Poly, relaxed } from './polySkills.ts';

export interface PolyConfig {
  readonly rank: number; // r of each skill
  readonly skills: number; // S
  readonly tasks: number; // with more than one the task of each row is fed as `task` [B]
  readonly splits: number; // Q heads, each with shares of its own for its part of input and output; divides both
}

/**
 * As in Hugging Face PEFT: A and B are mixed apart, the scale is 1/r, A ~ U(±1/√(in/Q)), B = 0, logits ~ U(±0.001). One split is Poly,
 * more are its multi-head form. With one task it merges; with several the update depends on the row's task and there is no one weight.
 * Count per site: S·r(in + out) + tasks·Q·S.
 */
export const poly = defineMethod<'linear', PolyConfig, Poly>({
  name: 'poly',
  family: 'reparameterized',
  paper: 'arXiv:2202.13914',
  at: 'linear',
  defaults: { rank: 8, skills: 4, tasks: 1, splits: 1, where: ['q', 'v'] },
  check: (site, c) => {
    for (const name of ['skills', 'tasks', 'splits'] as const) wholeNumber('poly', name, c[name]);
    rankFits('poly', site, c.rank);
    for (const n of site.shape)
      if (n % c.splits !== 0)
        throw new RangeError(
          `poly at ${site.path}: ${c.splits} splits do not divide ${site.shape.join(' × ')}; choose a divisor of both, or splits: 1`,
        );
  },
  init: ({ shape: [out, into] }, { rank, skills, tasks, splits }, r) => {
    const bound = 1 / Math.sqrt(into! / splits);
    return {
      train: {
        A: param(r.split('A').uniform(skills * into! * rank, -bound, bound), [splits, skills, into! / splits, rank]),
        B: param(new Float32Array(skills * rank * out!), [splits, skills, rank, out! / splits]),
        logits: param(r.split('logits').uniform(tasks * splits * skills, -1e-3, 1e-3), [tasks, splits * skills]),
      },
    };
  },
  around:
    (call, p, { rank, skills, tasks, splits }, site) =>
    (x, ctx) => {
      const rows = x.shape[0]!;
      const own = tasks === 1 ? p.logits : gather(p.logits, input('task', [rows])); // [1 or B, Q·S]
      const logits = reshape(own, [own.shape[0]!, splits, skills]);
      const [A, B] = mixed(p, relaxed(logits, ctx.draw.uniform(site.field, [rows, splits, skills])));
      const y = call(x, ctx);
      const flat = reshape(x, [rows, x.shape.slice(1, -1).reduce((n, d) => n * d, 1), x.shape.at(-1)!]);
      const change = flat
        .matmul(A)
        .matmul(B)
        .mul(1 / rank);
      return y.add(reshape(change, y.shape));
    },
  fold: ({ weight, bias }, p, { rank, skills, tasks, splits }, site) => {
    if (tasks !== 1)
      throw new Error(
        `poly at ${site.path}: its update is another for each of ${tasks} tasks, so no one weight has it; keep it attached, or train it with tasks: 1`,
      );
    const [A, B] = mixed(p, reshape(p.logits, [1, splits, skills]));
    const [, into, r] = A.shape as readonly [number, number, number];
    const change = reshape(A, [into, r]).matmul(reshape(B, [r, B.shape[2]!])); // [in, out]
    return { weight: weight.add(change.T.mul(1 / rank)), bias };
  },
  count: (sites, { rank, skills, tasks, splits }) => {
    const train = sites.reduce((n, { shape: [out, into] }) => n + skills * rank * (out! + into!) + tasks * splits * skills, 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
