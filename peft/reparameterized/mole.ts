// MoLE, a mixture of LoRA experts: trained LoRAs, frozen, whose answers a gate at every layer weighs by all that they say of the text.
//   y = W x + b + Σᵢ Gᵢ Eᵢ(x),   Eᵢ(x) = sᵢ Bᵢ Aᵢ x ∈ ℝ^{T×out} for a text of T tokens;   G = softmax(ε/τ)
//   ε = flat(norm(E₁ ⊕ … ⊕ E_N))ᵀ e,   e ∈ ℝ^{ξ×N}, ξ = N·L·out: an entry for every expert, position and feature;   only e and τ are trained
//   balance −log Πᵢ qᵢ,   q the mean gate: taken layer by layer here, once over all layers in the paper
// Wu, Huang & Wei 2024 (ICLR), arXiv 2404.13628, §3.2–3.3, at the level of matrices, one of those of its §5. From the authors' code: norm is
// division by the length (here of each text's real tokens); each expert's e is of length 0.01, so that it starts near the LoRAs' mean; τ = 1,
// and is kept in 1 … 3. That code's gates are one for each block and read what enters it; the text's equations are followed here.
import { clamp } from '../../core/ops/map.ts';
import { stack } from '../../core/ops/move.ts';
import { param, paramOf, type Tensor } from '../../core/tensor.ts';
import { readsWhole, realTokens } from '../additive/reading.ts';
import { type Configurable, defineMethod } from '../attach.ts';
import { between, wholeNumber } from '../check.ts';
import { type ExpertConfig, expertsFit, expertsSize, type LoraExperts, placeholders } from './loraExperts.ts';
import { directions, gatesOf, imbalance } from './moleGate.ts';

export interface MoleConfig {
  readonly experts: readonly ExpertConfig[]; // rank and s of each
  readonly length: number; // L, tokens of the longest text; shorter ones use the first positions of e
  readonly balance: number; // α, the weight of the balance loss
}
/** e [N, L, out, N], τ [1]; A [r, in] and B [out, r] of each expert */
export type Mole = { e: Tensor; temperature: Tensor; A: readonly Tensor[]; B: readonly Tensor[] };

/** The method over the given experts by path; without them they are random placeholders, to be filled from a file. */
export const moleOver = (known: LoraExperts['at'] | null): Configurable<MoleConfig> =>
  defineMethod<'linear', MoleConfig, Mole>({
    name: 'mole',
    family: 'reparameterized',
    paper: 'arXiv:2404.13628',
    at: 'linear',
    defaults: { experts: [8, 8, 8].map((rank) => ({ rank, scale: 1 })), length: 512, balance: 0.5, where: ['q', 'v'] },
    check: (site, c) => {
      if (c.experts.length < 2)
        throw new RangeError(`mole at ${site.path}: ${c.experts.length} experts leave nothing to weigh; give 2 or more`);
      expertsFit('mole', site, c.experts);
      wholeNumber('mole', 'length', c.length);
      between('mole', 'balance', c.balance, 0, Number.MAX_VALUE);
      readsWhole('mole', site, 'gate');
    },
    init: (site, { experts, length }, r) => {
      const {
        path,
        shape: [out],
      } = site;
      const [given, n] = [known?.get(path) ?? placeholders(site, experts, r), experts.length];
      return {
        train: {
          e: param(directions(r.split('e'), n * length * out!, n), [n, length, out!, n], { decay: false }),
          temperature: param([1], [1], { decay: false }),
        },
        fixed: { A: given.map(({ A }) => A), B: given.map(({ B }) => B) },
      };
    },
    around: (call, p, c, site) => (x, ctx) => {
      if (x.shape.length !== 3) return call(x, ctx); // rows that are no text (LLaMA-Adapter's prompt)
      const [b, t] = x.shape as readonly [number, number, number];
      if (t > c.length)
        throw new RangeError(`mole at ${site.path}: a text of ${t} tokens is longer than its gate, which has ${c.length}; raise length`);
      const answers = stack(
        c.experts.map(({ scale }, i) => x.matmul(p.A[i]!.T).matmul(p.B[i]!.T).mul(scale)),
        1,
      ); // [B, N, T, out]
      const gates = gatesOf(answers, realTokens(x, ctx), p); // [B, N]
      if (c.balance > 0) ctx.aux(site.path, imbalance(gates).mul(c.balance));
      return call(x, ctx).add(answers.mul(gates.reshape(b, -1, 1, 1)).sum([1]));
    },
    hooks: ({ temperature: t }) => ({ afterStep: ({ next }) => new Map([[paramOf(t)!, clamp(next(paramOf(t)!), 1, 3)]]) }),
    count: (sites, { experts, length }) => {
      const n = experts.length;
      const train = sites.reduce((sum, { shape: [out] }) => sum + n * n * length * out! + 1, 0);
      return { train, stored: train + sites.reduce((sum, s) => sum + expertsSize(s, experts), 0) };
    },
    startsAsBase: () => 'no',
  });

/** The gates alone, over placeholders; `mixtureOfLoras(models)` (moleStages.ts) has trained ones. Count: N²·L·out + 1 for each layer. */
export const mole = moleOver(null);
