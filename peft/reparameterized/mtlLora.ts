// MTL-LoRA: LoRA for several tasks at once. A and a few B are shared; each task has its own stretch of the rank and its own mix of the B.
//   y = W x + b + s·Σ_i w_ti B_i Λ_t A x,   w_t = softmax(ω_t / τ),   Λ_t = diag(λ_t),   s = α/r;   A ∈ ℝ^{r×in}, B_1 … B_n ∈ ℝ^{out×r}
// Yang et al. 2024, arXiv 2410.09437, as in AdapterHub's `mtl_lora` (adapters 1.3): λ = 1, ω = 1, B = 0, A ~ U(±1/√in).
import { softmax } from '../../core/ops/fused.ts';
import { gather } from '../../core/ops/index.ts';
import { input, param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { rankFits, wholeNumber } from '../check.ts';

export interface MtlLoraConfig {
  readonly rank: number;
  readonly alpha: number;
  readonly tasks: number; // with more than one the task of each row is fed as `task` [B]
  readonly ups: number; // n
  readonly sharpness: number; // τ
}
type MtlLora = { readonly A: Tensor; readonly B: Tensor; readonly lambda: Tensor; readonly omega: Tensor }; // [r, in], [n, out, r], [K, r], [K, n]

/** w_t [K, n] */
const mix = (omega: Tensor, { sharpness }: MtlLoraConfig): Tensor => softmax(omega.mul(1 / sharpness));

/**
 * Defaults are AdapterHub's: r = α = 8, one B, τ = 0.05. With one B its mix is 1 and ω learns nothing, here as there. The full matrix
 * Λ_t of the library's `linear` cannot be built in it (it fails when made), so it is not here. With one task it merges.
 * Count per site: r(in + n·out) + K(r + n).
 */
export const mtlLora = defineMethod<'linear', MtlLoraConfig, MtlLora>({
  name: 'mtlLora',
  family: 'reparameterized',
  paper: 'arXiv:2410.09437',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, tasks: 1, ups: 1, sharpness: 0.05, where: ['q', 'v'] },
  check: (site, c) => {
    rankFits('mtlLora', site, c.rank);
    for (const name of ['tasks', 'ups'] as const) wholeNumber('mtlLora', name, c[name]);
    if (!(c.alpha > 0)) throw new RangeError(`mtlLora: alpha ${c.alpha} must be positive; it is usually 1 or 2 times the rank`);
    if (!(c.sharpness > 0)) throw new RangeError(`mtlLora: sharpness ${c.sharpness} divides the weights of the B and must be above 0`);
  },
  init: ({ shape: [out, into] }, { rank: r, tasks, ups }, draw) => ({
    train: {
      A: param(draw.uniform(r * into!, -1 / Math.sqrt(into!), 1 / Math.sqrt(into!)), [r, into!]),
      B: param(new Float32Array(ups * out! * r), [ups, out!, r]),
      lambda: param(new Float32Array(tasks * r).fill(1), [tasks, r], { decay: false }),
      omega: param(new Float32Array(tasks * ups).fill(1), [tasks, ups], { decay: false }),
    },
  }),
  around:
    (call, { A, B, lambda, omega }, c) =>
    (x, ctx) => {
      const own = (t: Tensor): Tensor => (c.tasks === 1 ? t : gather(t, input('task', [x.shape[0]!]))); // [1 or B, ·]
      const per = (t: Tensor): Tensor => t.reshape(t.shape[0]!, ...x.shape.slice(2).map(() => 1), t.shape[1]!); // beside x
      const h = x.matmul(A.T).mul(per(own(lambda)));
      const w = own(mix(omega, c));
      const ups = Array.from({ length: c.ups }, (_, i) =>
        h.matmul(B.slice(0, i, i + 1).reshape(B.shape[1]!, c.rank).T).mul(per(w.slice(1, i, i + 1))),
      );
      return call(x, ctx).add(ups.reduce((a, b) => a.add(b)).mul(c.alpha / c.rank));
    },
  fold: ({ weight, bias }, { A, B, lambda, omega }, c, site) => {
    if (c.tasks !== 1)
      throw new Error(
        `mtlLora at ${site.path}: its update is another for each of ${c.tasks} tasks, so no one weight has it; keep it attached, or train it with tasks: 1`,
      );
    const up = B.mul(mix(omega, c).reshape(c.ups, 1, 1)).sum([0]); // [out, r]
    return {
      weight: weight.add(
        up
          .mul(lambda)
          .matmul(A)
          .mul(c.alpha / c.rank),
      ),
      bias,
    };
  },
  count: (sites, { rank: r, tasks, ups }) => {
    const train = sites.reduce((n, { shape: [out, into] }) => n + r * (into! + ups * out!) + tasks * (r + ups), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
