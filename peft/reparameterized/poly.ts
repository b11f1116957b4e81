// Poly (Polytropon): an inventory of S low-rank skills beside a linear layer, and for every task the share it has of each skill.
//   y = W x + b + (1/r)·B_t A_t x,   A_t = Σ_s w_ts A_s,  B_t = Σ_s w_ts B_s,   w_t = z_t / Σ_s z_ts,   z_t = sigmoid(logits_t)
//   in training z_t = sigmoid(logits_t + log u − log(1 − u)), u ~ U(0, 1) for each row of the batch: a relaxed Bernoulli of temperature 1
// Ponti et al. 2022, arXiv 2202.13914; several heads (splits): Caccia et al. 2022, arXiv 2211.03831.
import { gather } from '../../core/ops/index.ts';
import { clamp, log, sigmoid } from '../../core/ops/map.ts';
import { permute, reshape } from '../../core/ops/move.ts';
import { sum } from '../../core/ops/reduce.ts';
import { input, param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { rankFits, wholeNumber } from '../check.ts';

export interface PolyConfig {
  readonly rank: number; // r of each skill
  readonly skills: number; // S
  readonly tasks: number; // with more than one the task of each row is fed as `task` [B]
  readonly splits: number; // Q heads, each with shares of its own for its part of input and output; divides both
}
/** A [Q, S, in/Q, r], B [Q, S, r, out/Q], logits [tasks, Q·S] */
type Poly = { readonly A: Tensor; readonly B: Tensor; readonly logits: Tensor };

const EDGE = 2 ** -23; // u stays this far from 0 and 1, as in PyTorch's RelaxedBernoulli

/** The mixed factors of each row of z's logits [R, Q, S]: A [R, in, r] and B [R, r, out]. */
function mixed({ A, B }: Poly, logits: Tensor): readonly [Tensor, Tensor] {
  const [rows, heads, skills] = logits.shape as readonly [number, number, number];
  const [into, rank, out] = [A.shape[2]!, A.shape[3]!, B.shape[3]!];
  const z = sigmoid(logits);
  const w = reshape(z.div(sum(z, [2], true).add(1e-12)), [rows, heads, 1, skills]);
  const mix = (t: Tensor, n: number): Tensor => w.matmul(reshape(t, [heads, skills, n])); // [R, Q, 1, n]
  const b = reshape(mix(B, rank * out), [rows, heads, rank, out]);
  return [reshape(mix(A, into * rank), [rows, heads * into, rank]), reshape(permute(b, [0, 2, 1, 3]), [rows, rank, heads * out])];
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
      const drawn = ctx.draw.uniform(site.field, [rows, splits, skills]);
      const u = drawn === null ? null : clamp(drawn, EDGE, 1 - EDGE);
      const [A, B] = mixed(p, u === null ? logits : logits.add(log(u)).sub(log(u.neg().add(1))));
      const y = call(x, ctx);
      const flat = reshape(x, [rows, x.shape.slice(1, -1).reduce((n, d) => n * d, 1), x.shape.at(-1)!]);
      return y.add(
        reshape(
          flat
            .matmul(A)
            .matmul(B)
            .mul(1 / rank),
          y.shape,
        ),
      );
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
