// X-LoRA: several trained LoRAs, scaled token by token and layer by layer by what the network itself says of the text in a first pass.
//   h = trunk with all λ = λ₀ (no gradient),   λ = softmax(MLP(h)/τ) ∈ ℝ^{E} for each token (and layer),   second pass: y = W x + b + w·Σ_e s_e B_e A_e (λ_e x)
//   MLP: `depth` linear layers, ReLU and dropout between them; with topK only the K largest λ of a token count
// Buehler & Buehler 2024, arXiv 2402.07148, as built in PEFT: the experts stay frozen and only the MLP is trained, unless `trainExperts`. λ₀ is 0
// there and here, so that the first pass is the base's. The experts' own dropout is not here.
// It generates with a cache, which PEFT's does not: both passes have keys and values of their own.
import { stopGradient } from '../../core/ops/map.ts';
import type { Tensor } from '../../core/tensor.ts';
import { type Configurable, defineMethod } from '../attach.ts';
import { between, dropoutFits, wholeNumber } from '../check.ts';
import { PLACES, type Where } from '../site.ts';
import type { Factors } from './lora.ts';
import { type ExpertConfig, expertsFit, expertsSize, type LoraExperts, opened, placeholders } from './loraExperts.ts';
import { withEqual, withExperts } from './xloraExperts.ts';
import { mlpSize, newMlp, scalings } from './xloraScalings.ts';

export interface XloraConfig {
  readonly experts: readonly ExpertConfig[];
  readonly linears: Where; // layers that have experts
  readonly depth: number; // of the MLP
  readonly hidden: number; // its width, where depth > 1
  readonly dropout: number; // within it
  readonly layerwise: boolean; // λ of its own for each layer
  readonly softmax: boolean; // over the experts
  readonly temperature: number; // τ
  readonly topK: number | null;
  readonly topKSoftmax: boolean; // a softmax over those K
  readonly weight: number; // w
  readonly firstPass: number; // λ₀
  readonly trainExperts: boolean;
}
/** The MLP's weights and biases; A [r, in] and B [out, r] of expert e at layer l at place l·E + e. */
export type Xlora = Record<'weights' | 'biases' | 'A' | 'B', readonly Tensor[]>;
/** The method over given experts by path; without them they are placeholders, to be filled from a file. */
export const xloraOver = (known: LoraExperts['at'] | null): Configurable<XloraConfig> =>
  defineMethod<'trunk', XloraConfig, Xlora>({
    name: 'xlora',
    family: 'reparameterized',
    paper: 'arXiv:2402.07148',
    at: 'trunk',
    defaults: {
      experts: Array.from({ length: 3 }, () => ({ rank: 8, scale: 1 })),
      ...{ linears: ['q', 'v'], depth: 1, hidden: 2048, dropout: 0.2, layerwise: false, softmax: true, temperature: 1 },
      ...{ topK: null, topKSoftmax: false, weight: 1, firstPass: 0, trainExperts: false, where: 'trunk' },
    },
    takes: { linears: PLACES, topK: [null, Number] },
    check: (site, c) => {
      for (const s of site.within('linear', c.linears)) expertsFit('xlora', s, c.experts);
      for (const name of ['depth', 'hidden'] as const) wholeNumber('xlora', name, c[name]);
      dropoutFits('xlora', c.dropout);
      between('xlora', 'temperature', c.temperature, Number.MIN_VALUE, Number.MAX_VALUE);
      if (c.topK !== null) wholeNumber('xlora', 'topK', c.topK, 1, c.experts.length);
      if (c.firstPass !== 0 && c.topK !== null)
        throw new RangeError('xlora: in a first pass of equal scalings none is the largest; with topK set firstPass to 0');
      if (c.topKSoftmax && c.topK === null) throw new RangeError('xlora: topKSoftmax is a softmax over the topK experts; set topK');
    },
    init: (site, c, r) => {
      const at = site.within('linear', c.linears);
      const experts = at.flatMap((s) => known?.get(s.path) ?? placeholders(s, c.experts, r.split(s.path)));
      const factors = { A: experts.map((e: Factors) => e.A), B: experts.map((e: Factors) => e.B) };
      const mlp = newMlp(site.dim('width'), at.length, c, r);
      return c.trainExperts ? { train: { ...mlp, A: factors.A.map(opened), B: factors.B.map(opened) } } : { train: mlp, fixed: factors };
    },
    around: (call, p, c, site) => (h, ctx) => {
      const first = stopGradient(withEqual(call, h, p, c, site)(h, { ...ctx, aux: () => {} })); // [B, T, d]
      return withExperts(call, scalings(first, p, c, site, ctx), p, c, site)(h, ctx);
    },
    count: (sites, c) => {
      const each = sites.map((s) => {
        const at = s.within('linear', c.linears);
        return { mlp: mlpSize(s.dim('width'), at.length, c), experts: at.reduce((sum, one) => sum + expertsSize(one, c.experts), 0) };
      });
      const [mlp, experts] = [each.reduce((n, e) => n + e.mlp, 0), each.reduce((n, e) => n + e.experts, 0)];
      return { train: c.trainExperts ? mlp + experts : mlp, stored: mlp + experts };
    },
    startsAsBase: () => 'no',
  });

/** X-LoRA with placeholders for experts, to be filled from a saved file; `xloraOf(models)` (xloraOf.ts) makes it from trained LoRAs. Defaults as PEFT's. Count: the gate’s MLP; the experts besides, with `trainExperts`. */
export const xlora = xloraOver(null);
