// Arrow: every token is sent to those of several trained LoRAs whose update it would change most, judged by one vector each.
//   y = W x + b + Σ_e c_e s_e B_e A_e x,   c = softmax over the K largest of |x·v_e|/τ (0 for the others),   v_e the first right singular vector of B_e A_e
//   GenKnowSub:   A_e ← A_e − mean A_g,  B_e ← B_e − mean B_g over LoRAs g of general knowledge, before all this
// Ostapenko et al. 2024, arXiv 2405.11157; GenKnowSub: ACL 2025 (short 54), as built in PEFT, with v_e exact there where PEFT iterates 15 times.
// Nothing is trained, unless the experts are (`trainExperts`; the v_e stay). Needs no data: a library of LoRAs serves tasks it has not seen.
import { softmax } from '../../core/ops/fused.ts';
import { abs, where } from '../../core/ops/map.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { largest } from '../additive/topRouter.ts';
import { type Configurable, defineMethod } from '../attach.ts';
import { between, wholeNumber } from '../check.ts';
import { prototype } from './arrowPrototype.ts';
import { type ExpertConfig, expertsFit, expertsSize, type LoraExperts, opened, placeholders } from './loraExperts.ts';

export interface ArrowConfig {
  readonly experts: readonly ExpertConfig[];
  readonly topK: number; // K
  readonly temperature: number; // τ
  readonly trainExperts: boolean;
}
type Arrow = { readonly A: readonly Tensor[]; readonly B: readonly Tensor[]; readonly prototypes: Tensor }; // v [E, in]

/** The method over given experts by path; without them they are placeholders, to be filled from a file. */
export const arrowOver = (known: LoraExperts['at'] | null): Configurable<ArrowConfig> =>
  defineMethod<'linear', ArrowConfig, Arrow>({
    name: 'arrow',
    family: 'reparameterized',
    paper: 'arXiv:2405.11157',
    at: 'linear',
    defaults: {
      experts: Array.from({ length: 3 }, () => ({ rank: 8, scale: 1 })),
      ...{ topK: 3, temperature: 1, trainExperts: false },
      where: ['q', 'v'],
    },
    check: (site, c) => {
      expertsFit('arrow', site, c.experts);
      wholeNumber('arrow', 'topK', c.topK);
      between('arrow', 'topK', c.topK, 1, c.experts.length, true);
      between('arrow', 'temperature', c.temperature, Number.MIN_VALUE, Number.MAX_VALUE);
    },
    init: (site, c, r) => {
      const experts = known?.get(site.path) ?? placeholders(site, c.experts, r);
      const prototypes = leaf(Float64Array.from(experts.flatMap((e) => [...prototype(e)])), [experts.length, site.shape[1]!]);
      const factors = { A: experts.map((e) => e.A), B: experts.map((e) => e.B) };
      return c.trainExperts
        ? { train: { A: factors.A.map(opened), B: factors.B.map(opened) }, fixed: { prototypes } }
        : { train: {}, fixed: { ...factors, prototypes } };
    },
    around:
      (call, { A, B, prototypes }, { experts, topK, temperature }) =>
      (x, ctx) => {
        const near = abs(x.matmul(prototypes.T)); // [.., E]
        const shares = softmax(where(largest(near, topK), near.mul(1 / temperature), -1e9));
        return experts
          .map(({ scale }, e) =>
            x
              .matmul(A[e]!.T)
              .mul(shares.slice(-1, e, e + 1))
              .matmul(B[e]!.T)
              .mul(scale),
          )
          .reduce((y, one) => y.add(one), call(x, ctx));
      },
    count: (sites, { experts, trainExperts }) => {
      const size = sites.reduce((n, s) => n + expertsSize(s, experts), 0);
      return { train: trainExperts ? size : 0, stored: size + sites.reduce((n, { shape: [, into] }) => n + experts.length * into!, 0) };
    },
    startsAsBase: () => 'no',
  });

/** Arrow with placeholders for experts, to be filled from a saved file; `arrowOf(models)` (arrowOf.ts) makes it from trained LoRAs. Count: none; the experts, with `trainExperts`. */
export const arrow = arrowOver(null);
