// AdaLoRA: LoRA as triplets of a singular value decomposition, with a budget of triplets shared out among all layers.
//   y = W x + b + s·P Λ Q x̃,   code names B = P [out, k], E = diag Λ [k, 1], A = Q [k, in],   s = α/(k + 1e-5),   x̃ = drop(x)
//   importance of a scalar w: I = |w·∂w|,  Ī ← β₁Ī + (1−β₁)I,  Ū ← β₂Ū + (1−β₂)|I − Ī|,  score Ī·Ū
//   score of triplet j: score(E_j) + mean score(A_j·) + mean score(B_·j); the lowest are masked, E_j ← 0, and may grow again
// Zhang et al. 2023, arXiv 2303.10512, §3. After each step: new values, then importance, then the budget, as the authors do.
import { abs, max, sqrt, square } from '../../core/ops/map.ts';
import { type Data, leaf, type Param, param, paramOf, type Tensor } from '../../core/tensor.ts';
import type { Hooks } from '../../nn/hooks.ts';
import { defineMethod } from '../attach.ts';
import { between, wholeNumber } from '../check.ts';
import { checkUpdate, dropped } from './lora.ts';

export interface AdaloraConfig {
  readonly rank: number; // k, triplets of each layer at first
  readonly targetRank: number; // mean number of triplets per layer at the end
  readonly alpha: number;
  readonly dropout: number; // on x, on this branch only
  readonly tinit: number; // steps before the budget shrinks
  readonly tfinal: number; // last steps, with the mask fixed
  readonly deltaT: number; // steps between two maskings
  readonly beta1: number;
  readonly beta2: number;
  readonly orthogonality: number; // γ, times the mean of ‖AAᵀ − I‖_F and ‖BᵀB − I‖_F (the paper: their squares, summed)
}
/** Ī and Ū of A, E and B in this order, the triplets' scores [k, 1], and 1 for those that may be used; dropped by `finish`. */
type Adalora = { A: Tensor; E: Tensor; B: Tensor; average?: readonly Tensor[]; spread?: readonly Tensor[]; score?: Tensor; kept?: Tensor };
const own = ({ A, E, B }: Adalora): readonly Tensor[] => [A, E, B];
const scale = (c: AdaloraConfig): number => c.alpha / (c.rank + 1e-5);

/** How many triplets all n matrices together keep after step t: b⁰, then a cubic down to bᵀ, then bᵀ. */
export function budget(t: number, total: number, c: AdaloraConfig, n: number): number {
  const [b0, bT, end] = [n * c.rank, n * c.targetRank, total - c.tfinal];
  if (t <= c.tinit) return b0;
  return t >= end ? bT : Math.floor(bT + (b0 - bT) * (1 - (t - c.tinit) / (end - c.tinit)) ** 3);
}

/** ‖M Mᵀ − I‖_F, with the subgradient 0 where the rows are orthonormal. */
const skew = (m: Tensor): Tensor => {
  const k = m.shape[0]!;
  const one = leaf(
    Float32Array.from({ length: k * k }, (_, i) => (i % (k + 1) === 0 ? 1 : 0)),
    [k, k],
  );
  return sqrt(max(square(m.matmul(m.T).sub(one)).sum(), 1e-30));
};

export const adalora = defineMethod<'linear', AdaloraConfig, Adalora>({
  name: 'adalora',
  family: 'reparameterized',
  paper: 'arXiv:2303.10512',
  at: 'linear',
  defaults: {
    ...{ rank: 12, targetRank: 8, alpha: 8, dropout: 0, tinit: 0, tfinal: 0, deltaT: 1, beta1: 0.85, beta2: 0.85, orthogonality: 0.5 },
    where: ['q', 'v'],
  },
  check: (site, c) => {
    checkUpdate('adalora')(site, { ...c, rankStabilized: false });
    wholeNumber('adalora', 'targetRank', c.targetRank);
    wholeNumber('adalora', 'deltaT', c.deltaT);
    if (c.targetRank > c.rank)
      throw new RangeError(`adalora: targetRank ${c.targetRank} must be at most rank ${c.rank}: the budget shrinks`);
    for (const name of ['beta1', 'beta2'] as const) between('adalora', name, c[name], 0, 1);
    for (const name of ['tinit', 'tfinal'] as const) between('adalora', name, c[name], 0, Number.POSITIVE_INFINITY);
  },
  init: ({ shape: [out, into] }, { rank }, r) => {
    const shapes = [
      [rank, into!],
      [rank, 1],
      [out!, rank],
    ] as const; // prettier-ignore
    const buffer = ([n, m]: readonly [number, number], value = 0): Tensor =>
      param(new Float32Array(n * m).fill(value), [n, m], { active: false });
    return {
      train: {
        A: param(r.split('A').normal(rank * into!, 0.02), [rank, into!]),
        E: param(new Float32Array(rank), [rank, 1]),
        B: param(r.split('B').normal(out! * rank, 0.02), [out!, rank]),
      },
      buffer: {
        average: shapes.map((s) => buffer(s)),
        spread: shapes.map((s) => buffer(s)),
        score: buffer([rank, 1]),
        kept: buffer([rank, 1], 1),
      },
    };
  },
  around:
    (call, { A, E, B }, c, site) =>
    (x, ctx) =>
      call(x, ctx).add(dropped(x, c, site, ctx).matmul(A.mul(E).T).matmul(B.T).mul(scale(c))),
  fold: ({ weight, bias }, { A, E, B }, c) => ({ weight: weight.add(B.matmul(A.mul(E)).mul(scale(c))), bias }),
  hooks: (p, c, site) => ({
    penalty: () =>
      skew(p.A)
        .add(skew(p.B.T))
        .mul(c.orthogonality / (2 * site.of)),
    ...importance(p, c),
  }),
  control: (at, c) => {
    const live = at.flatMap(({ own: p }) => {
      const [E, score, kept] = [p.E, p.score, p.kept].map((t) => (t === undefined ? null : paramOf(t)));
      return E && score && kept ? [{ E, score, kept }] : [];
    });
    return {
      begin: (total) => {
        if (total - c.tfinal <= c.tinit)
          throw new RangeError(
            `adalora: ${total} steps leave none between tinit ${c.tinit} and the last tfinal ${c.tfinal} for the budget to shrink in; train longer, or lower them`,
          );
      },
      after: async ({ step, total }, read) => {
        const final = step === total - c.tfinal;
        if (!(final || (step > c.tinit && step < total - c.tfinal && step % c.deltaT === 0))) return null;
        const drop = live.length * c.rank - budget(step, total, c, live.length);
        if (drop === 0) return null;
        const now = await read(live.flatMap(({ E, score }) => [E, score]));
        const threshold = live.flatMap(({ score }) => [...now.get(score)!]).sort((a, b) => a - b)[drop - 1]!;
        const write = new Map<Param, Data>();
        for (const { E, score, kept } of live) {
          const stays = now.get(score)!.map((s) => (s > threshold ? 1 : 0)); // equal scores go together
          write.set(
            E,
            now.get(E)!.map((e, j) => e * stays[j]!),
          ); // prettier-ignore
          if (final) write.set(kept, stays);
        }
        return write;
      },
    };
  },
  finish: ({ A, E, B }) => ({ A, E, B }),
  count: (sites, { rank }) => {
    const train = sites.reduce((n, { shape: [out, into] }) => n + rank * (out! + into! + 1), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});

/** What follows each optimizer step: averages and scores from its gradients and new values, and the final mask once there is one. */
function importance(p: Adalora, c: AdaloraConfig): Hooks {
  const params = own(p).map(paramOf);
  const { average, spread, score, kept } = p;
  const buffers = [...(average ?? []), ...(spread ?? []), score, kept].map((t) => (t === undefined ? null : paramOf(t)));
  if (buffers.includes(null) || !average || !spread || !score || !kept) return {}; // finished, or frozen
  return {
    afterStep: ({ grad, next }) => {
      const updates = new Map<Param, Tensor>();
      const scores = params.map((w, k) => {
        const g = w === null ? undefined : grad.get(w);
        if (w === null || g === undefined) throw new Error('adalora: A, E and B are trained together; freeze all of them or none');
        const now = abs(next(w).mul(g));
        const mean = average[k]!.mul(c.beta1).add(now.mul(1 - c.beta1));
        const unsure = spread[k]!.mul(c.beta2).add(abs(now.sub(mean)).mul(1 - c.beta2));
        updates.set(paramOf(average[k]!)!, mean).set(paramOf(spread[k]!)!, unsure);
        return mean.mul(unsure);
      });
      const [a, e, b] = scores as [Tensor, Tensor, Tensor];
      updates.set(paramOf(score)!, e.add(a.mean([1], true)).add(b.mean([0], true).T)); // [k, 1]
      return updates.set(params[1]!, next(params[1]!).mul(kept));
    },
  };
}
