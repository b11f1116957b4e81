// Lily: LoRA whose first factor is shared by neighbouring layers and whose second is mixed, by a router, from a few that all layers share.
//   h = A x,   π = mean over all tokens of softmax(R h),   y = W x + b + s·(Σₑ πₑ Bₑ) h
//   A ∈ ℝ^{r×in} for each `stride` layers of one name, B₁ … B_N ∈ ℝ^{out×r} for all layers of that name, R ∈ ℝ^{N×r} for each layer
// Zhong et al. 2024, arXiv 2407.09946, as built in PEFT. The mean is over the whole batch, so what a row computes depends on the others.
import { softmax } from '../../core/ops/fused.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { rankFits, wholeNumber } from '../check.ts';
import type { Site } from '../site.ts';

export interface LilyConfig {
  readonly rank: number;
  readonly stride: number; // layers that share one A
  readonly experts: number; // N
  readonly scale: number; // s
}
type Lily = { A: Tensor; B: Tensor; router: Tensor }; // [r, in], [N, out, r], [N, r]

/** Sites of one name and shape, in order. */
function families(sites: readonly Site<'linear'>[]): Site<'linear'>[][] {
  const found = new Map<string, Site<'linear'>[]>();
  for (const s of sites) {
    const name = `${s.path.split('.').at(-1)} ${s.shape}`;
    found.set(name, [...(found.get(name) ?? []), s]);
  }
  return [...found.values()];
}

/** Count: r·in for each `stride` layers of a name, N·r·out for each name, N·r for each layer. */
export const lily = defineMethod<'linear', LilyConfig, Lily, ReadonlyMap<string, Pick<Lily, 'A' | 'B'>>>({
  name: 'lily',
  family: 'reparameterized',
  paper: 'arXiv:2407.09946',
  at: 'linear',
  defaults: { rank: 32, stride: 1, experts: 2, scale: 1, where: ['q', 'v'] },
  check: (site, c) => {
    rankFits('lily', site, c.rank);
    wholeNumber('lily', 'stride', c.stride);
    wholeNumber('lily', 'experts', c.experts);
  },
  shared: (sites, { rank, stride, experts }, r) =>
    new Map(
      families(sites).flatMap((family) => {
        const [out, into] = family[0]!.shape as [number, number];
        const B = param(new Float32Array(experts * out * rank), [experts, out, rank]);
        const a = Math.sqrt(1 / into);
        const As = Array.from({ length: Math.ceil(family.length / stride) }, (_, k) =>
          param(r.split(`${family[k * stride]!.path} A`).uniform(rank * into, -a, a), [rank, into]),
        );
        return family.map((s, k) => [s.path, { A: As[Math.floor(k / stride)]!, B }] as const);
      }),
    ),
  init: ({ path }, { rank, experts }, r, { shared }) => {
    const a = Math.sqrt(1 / rank);
    return { train: { ...shared.get(path)!, router: param(r.uniform(experts * rank, -a, a), [experts, rank]) } };
  },
  around:
    (call, { A, B, router }, { scale, experts }) =>
    (x, ctx) => {
      const h = x.matmul(A.T);
      const shares = softmax(h.matmul(router.T)).reshape(-1, experts).mean([0]); // [N]
      const mixed = B.mul(shares.reshape(experts, 1, 1)).sum([0]); // [out, r]
      return call(x, ctx).add(h.matmul(mixed.T).mul(scale));
    },
  count: (sites, { rank, stride, experts }) => {
    const train = families(sites).reduce((n, f) => {
      const [out, into] = f[0]!.shape as [number, number];
      return n + Math.ceil(f.length / stride) * rank * into + experts * out * rank + f.length * experts * rank;
    }, 0);
    return { train, stored: train };
  },
  acrossRows: 'its router takes the mean over all tokens of the batch',
  startsAsBase: () => 'close', // adds an exact zero
});
