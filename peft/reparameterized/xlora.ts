// X-LoRA: several trained LoRAs, scaled token by token and layer by layer by what the network itself says of the text in a first pass.
//   h = trunk without experts (no gradient),   λ = softmax(MLP(h)/τ) ∈ ℝ^{E} for each token (and layer),   second pass: y = W x + b + w·Σ_e s_e B_e A_e (λ_e x)
//   MLP: `depth` linear layers, ReLU and dropout between them; with topK only the K largest λ of a token count
// Buehler & Buehler 2024, arXiv 2402.07148, as built in PEFT: the experts stay frozen and only the MLP is trained, unless `trainExperts`. PEFT's
// `scaling_pass_value` has no effect there (the first pass runs without adapters) and is not here; nor is the experts' own dropout.
// It generates with a cache, which PEFT's does not: both passes have keys and values of their own. Longer than 80 lines: two passes, an MLP, many options.
import { dropout as drop, softmax } from '../../core/ops/fused.ts';
import { where as choose, ne, relu, stopGradient } from '../../core/ops/map.ts';
import { pad } from '../../core/ops/move.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import { BASE, layer, type Model } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import { largest } from '../additive/topRouter.ts';
import { type Configurable, defineMethod } from '../attach.ts';
import { between, dropoutFits, wholeNumber } from '../check.ts';
import type { Options, Transform } from '../method.ts';
import type { Site, Where } from '../site.ts';
import type { Factors } from './lora.ts';
import { type ExpertConfig, expertsFit, expertsSize, type LoraExperts, loraExperts, opened, placeholders } from './loraExperts.ts';

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
  readonly trainExperts: boolean;
}
/** The MLP's weights and biases; A [r, in] and B [out, r] of expert e at layer l at place l·E + e. */
type Xlora = Record<'weights' | 'biases' | 'A' | 'B', readonly Tensor[]>;

/** Widths of the MLP's layers, input first. */
const widths = (d: number, layers: number, c: XloraConfig): number[] => [
  d,
  ...Array.from({ length: c.depth - 1 }, () => c.hidden),
  c.experts.length * (c.layerwise ? layers : 1),
];

/** λ [B, T, layers or 1, E] from h [B, T, d]. */
function scalings(h: Tensor, { weights, biases }: Xlora, c: XloraConfig, { field }: Site<'trunk'>, ctx: Context): Tensor {
  const logits = weights.reduce((x, w, k) => {
    const y = x.matmul(w.T).add(biases[k]!);
    if (k === weights.length - 1) return y;
    const mask = c.dropout === 0 ? null : ctx.draw.bernoulli(`${field} ${k}`, y.shape, 1 - c.dropout);
    return mask === null ? relu(y) : drop(relu(y), mask, 1 - c.dropout);
  }, h);
  const each = logits.reshape(...h.shape.slice(0, -1), -1, c.experts.length);
  return c.softmax ? softmax(each.mul(1 / c.temperature)) : each;
}

/** What counts of one layer's λ [B, T, E]. */
function counted(own: Tensor, { topK, topKSoftmax }: XloraConfig): Tensor {
  const kept = topK === null ? own : own.mul(largest(own, topK));
  if (!topKSoftmax) return kept;
  const there = ne(kept, 0); // as in PEFT: what is 0 is out
  return softmax(choose(there, kept, -1e9)).mul(there);
}

/** The method over given experts by path; without them they are placeholders, to be filled from a file. */
const xloraOver = (known: LoraExperts['at'] | null): Configurable<XloraConfig> =>
  defineMethod<'trunk', XloraConfig, Xlora>({
    name: 'xlora',
    family: 'reparameterized',
    paper: 'arXiv:2402.07148',
    at: 'trunk',
    defaults: {
      experts: Array.from({ length: 3 }, () => ({ rank: 8, scale: 1 })),
      ...{ linears: ['q', 'v'], depth: 1, hidden: 2048, dropout: 0.2, layerwise: false, softmax: true, temperature: 1 },
      ...{ topK: null, topKSoftmax: false, weight: 1, trainExperts: false, where: 'trunk' },
    },
    check: (site, c) => {
      for (const s of site.within('linear', c.linears)) expertsFit('xlora', s, c.experts);
      for (const name of ['depth', 'hidden'] as const) wholeNumber('xlora', name, c[name]);
      dropoutFits('xlora', c.dropout);
      between('xlora', 'temperature', c.temperature, Number.MIN_VALUE, Number.MAX_VALUE);
      if (c.topK !== null) between('xlora', 'topK', c.topK, 1, c.experts.length, true);
      if (c.topKSoftmax && c.topK === null) throw new RangeError('xlora: topKSoftmax is a softmax over the topK experts; set topK');
    },
    init: (site, c, r) => {
      const at = site.within('linear', c.linears);
      const n = widths(site.dim('width'), at.length, c);
      const draw = (k: number, what: string, size: number): Float32Array =>
        r.split(`${what} ${k}`).uniform(size, -1 / Math.sqrt(n[k]!), 1 / Math.sqrt(n[k]!));
      const experts = at.flatMap((s) => known?.get(s.path) ?? placeholders(s, c.experts, r.split(s.path)));
      const factors = { A: experts.map((e: Factors) => e.A), B: experts.map((e: Factors) => e.B) };
      const mlp = {
        weights: n.slice(1).map((to, k) => param(draw(k, 'weight', to * n[k]!), [to, n[k]!])),
        biases: n.slice(1).map((to, k) => param(draw(k, 'bias', to), [to], { decay: false })),
      };
      return c.trainExperts ? { train: { ...mlp, A: factors.A.map(opened), B: factors.B.map(opened) } } : { train: mlp, fixed: factors };
    },
    around: (call, p, c, site) => {
      const at = new Map(site.within('linear', c.linears).map((s) => [s.path, s.index]));
      const E = c.experts.length;
      return (h, ctx) => {
        const first = stopGradient(call(h, { ...ctx, aux: () => {} })); // [B, T, d]
        const lambda = scalings(first, p, c, site, ctx);
        const scaled = substitute(
          call,
          'linear',
          (l, path) => {
            const k = at.get(path);
            if (k === undefined) return null;
            const own = counted(lambda.slice(2, c.layerwise ? k : 0, c.layerwise ? k + 1 : 1).reshape(...h.shape.slice(0, 2), E), c);
            return layer('linear', { [BASE]: l }, ({ [BASE]: l }) => (x, inner) => {
              if (x.shape.length !== 3 || x.shape[1]! < own.shape[1]!) return l(x, inner); // rows that are no tokens (LLaMA-Adapter's prompt)
              const shares = pad(own, 1, x.shape[1]! - own.shape[1]!, 0); // a prompt beneath has no experts
              return c.experts
                .map(({ scale }, e) => {
                  const low = x.matmul(p.A[k * E + e]!.T).mul(shares.slice(2, e, e + 1)); // A (λ x) = λ (A x)
                  return low.matmul(p.B[k * E + e]!.T).mul(scale * c.weight);
                })
                .reduce((y, one) => y.add(one), l(x, inner));
            });
          },
          site.path,
        );
        return scaled(h, ctx);
      };
    },
    count: (sites, c) => {
      const each = sites.map((s) => {
        const at = s.within('linear', c.linears);
        const n = widths(s.dim('width'), at.length, c);
        const mlp = n.slice(1).reduce((sum, to, k) => sum + to * (n[k]! + 1), 0);
        return { mlp, experts: at.reduce((sum, one) => sum + expertsSize(one, c.experts), 0) };
      });
      const [mlp, experts] = [each.reduce((n, e) => n + e.mlp, 0), each.reduce((n, e) => n + e.experts, 0)];
      return { train: c.trainExperts ? mlp + experts : mlp, stored: mlp + experts };
    },
    startsAsBase: () => 'no',
  });

/** X-LoRA with placeholders for experts, to be filled from a saved file; `xloraOf(models)` makes it from trained LoRAs. Defaults as PEFT's. Count: the gate’s MLP; the experts besides, with `trainExperts`. */
export const xlora = xloraOver(null);

/** X-LoRA over the LoRAs of these models, all on one network. */
export function xloraOf(models: readonly Model[], options: Omit<Options<XloraConfig>, 'experts' | 'linears' | 'where'> = {}): Transform {
  const { configs, at } = loraExperts('xloraOf', models);
  return xloraOver(at)({ ...options, experts: configs, linears: [...at.keys()] });
}
