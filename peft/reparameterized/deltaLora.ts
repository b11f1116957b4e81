// Delta-LoRA: LoRA whose frozen weight moves along, by the change that each step makes to the product of the factors.
//   after step t ≥ K:  W ← W + λ·s·(B_{t+1}A_{t+1} − B_tA_t),  which telescopes to W₀ + λ·s·(B A − B_K A_K)
//   y = W₀ x + b + s·B A x + on·λ·s·(sg(B) sg(A) − B_K A_K) x;   A_K, B_K and on are buffers, written once after step K
// Zi et al. 2023, arXiv 2309.02411, §3.2. No dropout on the branch, as there. No gradient or state of W's size exists.
import { stopGradient } from '../../core/ops/map.ts';
import { type Data, type Param, param, paramOf, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between, wholeNumber } from '../check.ts';
import { checkUpdate, type Factors, factors, type LoraConfig, STARTS, scaling, update } from './lora.ts';

export interface DeltaLoraConfig extends Omit<LoraConfig, 'dropout'> {
  readonly lambda: number; // λ
  readonly warmup: number; // K, steps before the weight moves
}
type DeltaLora = Factors & { AK: Tensor; BK: Tensor; on: Tensor };
const loraOf = (c: DeltaLoraConfig): LoraConfig => ({ ...c, dropout: 0 });
const copy = (t: Tensor): Tensor => param(paramOf(t)!.value.slice(), t.shape, { active: false });

/**
 * The paper has λ = 2, K = 500 for GPT-2 on data-to-text, λ = 0.5, K = 1000 for BART on XSum, and λ = 0.5 with a K for each task of GLUE; the
 * default is λ = 0.5 and K = 500. Count: r(in + out).
 */
export const deltaLora = defineMethod<'linear', DeltaLoraConfig, DeltaLora>({
  name: 'deltaLora',
  family: 'reparameterized',
  paper: 'arXiv:2309.02411',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, init: 'kaiming', lambda: 0.5, warmup: 500, where: ['q', 'v'] },
  takes: { init: STARTS },
  check: (site, c) => {
    checkUpdate('deltaLora')(site, loraOf(c));
    between('deltaLora', 'lambda', c.lambda, 0, Number.MAX_VALUE);
    wholeNumber('deltaLora', 'warmup', c.warmup, 0);
  },
  init: (site, c, r) => {
    const { A, B } = factors(site, loraOf(c), r);
    return { train: { A, B }, buffer: { AK: copy(A), BK: copy(B), on: param([c.warmup === 0 ? 1 : 0], [1], { active: false }) } };
  },
  around:
    (call, { A, B, AK, BK, on }, c) =>
    (x, ctx) => {
      const moved = x.matmul(stopGradient(A).T).matmul(stopGradient(B).T).sub(x.matmul(AK.T).matmul(BK.T));
      return call(x, ctx)
        .add(
          x
            .matmul(A.T)
            .matmul(B.T)
            .mul(scaling(loraOf(c))),
        )
        .add(moved.mul(on.mul(c.lambda * scaling(loraOf(c)))));
    },
  fold: ({ weight, bias }, { A, B, AK, BK, on }, c) => {
    const [now, then] = [B.matmul(A), BK.matmul(AK)];
    return { weight: weight.add(now.add(now.sub(then).mul(on.mul(c.lambda))).mul(scaling(loraOf(c)))), bias };
  },
  control: (at, c) => ({
    after: async ({ step }, read) => {
      if (step !== c.warmup) return null;
      const own = at.map(
        ({ own: { A, B, AK, BK, on } }) => [A, B, AK, BK, on].map((t) => paramOf(t)!) as [Param, Param, Param, Param, Param],
      );
      const now = await read(own.flat());
      return new Map<Param, Data>(
        own.flatMap(
          ([A, B, AK, BK, on]) =>
            [
              [AK, now.get(A)!.slice()],
              [BK, now.get(B)!.slice()],
              [on, Float32Array.of(1)],
            ] as const,
        ),
      );
    },
  }),
  count: (sites, c) => {
    const { train } = update.count(sites, loraOf(c));
    return { train, stored: 2 * train + sites.length };
  },
  startsAsBase: () => 'close', // adds exact zeros
});
