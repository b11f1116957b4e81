// AdaLoRA: LoRA as triplets of a singular value decomposition, with a budget of triplets shared out among all layers.
//   y = W x + b + s·P Λ Q x̃,   code names B = P [out, k], E = diag Λ [k, 1], A = Q [k, in],   s = α/(k + 1e-5),   x̃ = drop(x)
//   importance of a scalar w: I = |w·∂w|,  Ī ← β₁Ī + (1−β₁)I,  Ū ← β₂Ū + (1−β₂)|I − Ī|,  score Ī·Ū
//   score of triplet j: score(E_j) + mean score(A_j·) + mean score(B_·j); the lowest are masked, E_j ← 0, and may grow again
// Zhang et al. 2023, arXiv 2303.10512, §3. After each step: new values, then importance, then the budget, as the authors do.
import { iota, oneHot } from '../../core/ops/index.ts';
import { abs, full, max, sqrt, square } from '../../core/ops/map.ts';
import { type Data, type Param, param, paramOf, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between, wholeNumber } from '../check.ts';
import { budget } from './adaloraBudget.ts';
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

/** Buffers: Ī and Ū of A, E and B in this order, the triplets' scores [k, 1], and 1 for triplets that may be used in the end. */
type Adalora = { A: Tensor; E: Tensor; B: Tensor; average: readonly Tensor[]; spread: readonly Tensor[]; score: Tensor; kept: Tensor };

const scale = (c: AdaloraConfig): number => c.alpha / (c.rank + 1e-5);

const buffer = (n: number, m: number, value = 0): Tensor => param(new Float32Array(n * m).fill(value), [n, m], { active: false });

/** ‖M Mᵀ − I‖_F, with the subgradient 0 where the rows are orthonormal. */
const skew = (m: Tensor): Tensor => sqrt(max(square(m.matmul(m.T).sub(oneHot(iota(m.shape[0]!), m.shape[0]!))).sum(), 1e-30));

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
    for (const name of ['targetRank', 'deltaT'] as const) wholeNumber('adalora', name, c[name]);
    between('adalora', 'targetRank', c.targetRank, 1, c.rank, true); // the budget shrinks
    for (const name of ['beta1', 'beta2'] as const) between('adalora', name, c[name], 0, 1);
    for (const name of ['tinit', 'tfinal', 'orthogonality'] as const) between('adalora', name, c[name], 0, Number.MAX_VALUE);
  },
  init: ({ shape: [out, into] }, { rank: k }, r) => ({
    train: {
      A: param(r.split('A').normal(k * into!, 0.02), [k, into!]),
      E: param(new Float32Array(k), [k, 1]),
      B: param(r.split('B').normal(out! * k, 0.02), [out!, k]),
    },
    buffer: {
      average: [buffer(k, into!), buffer(k, 1), buffer(out!, k)],
      spread: [buffer(k, into!), buffer(k, 1), buffer(out!, k)],
      score: buffer(k, 1),
      kept: buffer(k, 1, 1),
    },
  }),
  around:
    (call, { A, E, B }, c, site) =>
    (x, ctx) =>
      call(x, ctx).add(dropped(x, c, site, ctx).matmul(A.mul(E).T).matmul(B.T).mul(scale(c))),
  fold: ({ weight, bias }, { A, E, B }, c) => ({ weight: weight.add(B.matmul(A.mul(E)).mul(scale(c))), bias }),
  hooks: (p, c, site) => ({
    penalty: () =>
      skew(p.A)
        .add(skew(p.B.T))
        .mul(c.orthogonality / (2 * site.of)), // the mean over all A and B
    afterStep: ({ grad, next }) => {
      const updates = new Map<Param, Tensor>();
      const [a, e, b] = [p.A, p.E, p.B].map((t, k) => {
        const [w, average, spread] = [t, p.average[k]!, p.spread[k]!].map((x) => paramOf(x)!) as [Param, Param, Param];
        const now = grad.has(w) ? abs(next(w).mul(grad.get(w)!)) : full(w.shape, 0); // I
        const mean = p.average[k]!.mul(c.beta1).add(now.mul(1 - c.beta1)); // Ī
        const unsure = p.spread[k]!.mul(c.beta2).add(abs(now.sub(mean)).mul(1 - c.beta2)); // Ū
        updates.set(average, mean).set(spread, unsure);
        return mean.mul(unsure);
      }) as [Tensor, Tensor, Tensor];
      const E = paramOf(p.E)!;
      return updates.set(paramOf(p.score)!, e.add(a.mean([1], true)).add(b.mean([0], true).T)).set(E, next(E).mul(p.kept));
    },
  }),
  control: (at, c) => ({
    begin: (total) => {
      if (!Number.isFinite(total))
        throw new RangeError('adalora: the budget depends on how many steps there will be; tell the trainer its total');
      if (total - c.tfinal <= c.tinit)
        throw new RangeError(
          `adalora: ${total} steps leave none between tinit ${c.tinit} and the last tfinal ${c.tfinal} for the budget to shrink in; train longer, or lower them`,
        );
    },
    after: async ({ step, total }, read) => {
      const end = total - c.tfinal;
      const drop = at.length * c.rank - budget(step, total, c, at.length);
      if (drop === 0 || step > end || (step < end && step % c.deltaT !== 0)) return null;
      const live = at.map(({ own }) => ({ E: paramOf(own.E)!, score: paramOf(own.score)!, kept: paramOf(own.kept)! }));
      const now = await read(live.flatMap(({ E, score }) => [E, score]));
      const threshold = live.flatMap(({ score }) => [...now.get(score)!]).sort((x, y) => x - y)[drop - 1]!;
      const write = new Map<Param, Data>();
      for (const { E, score, kept } of live) {
        const stays = now.get(score)!.map((s) => (s > threshold ? 1 : 0)); // equal scores go together
        write.set(
          E,
          now.get(E)!.map((v, j) => v * stays[j]!),
        );
        if (step === end) write.set(kept, stays); // from here on E is masked after every step
      }
      return write;
    },
  }),
  finish: ({ A, E, B }) => ({ A, E, B }),
  count: (sites, { rank }) => {
    const train = sites.reduce((n, { shape: [out, into] }) => n + rank * (out! + into! + 1), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
