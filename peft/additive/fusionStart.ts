// How AdapterFusion starts at a place: from what is given of its adapters and its fusion layer, the rest new.
// Pfeiffer et al. 2021, arXiv 2005.00247, §3.2.
import type { Rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { freeze } from '../../nn/freeze.ts';
import { type Bottleneck, listOf, newBottleneck } from './bottleneck.ts';
import type { AdapterFusionConfig, Fusion, Knowledge } from './fusionAttention.ts';

/** For width d. W_q, W_k ~ N(0, 0.02²), biases 0, W_v = I with 1e-6 elsewhere, T = 50; placeholders where no adapters are given. */
export function newFusion(given: (Knowledge & Partial<Fusion>) | undefined, d: number, c: AdapterFusionConfig, r: Rng) {
  const normal = (name: string): Tensor => param(r.split(name).normal(d * d, 0.02), [d, d]);
  const zeros = (): Tensor => param(new Float32Array(d), [d], { decay: false });
  const almostI = Float32Array.from({ length: d * d }, (_, i) => (i % (d + 1) === 0 ? 1 : 1e-6));
  const placeholder = (k: number): Bottleneck => newBottleneck({ ...c.adapters[k]!, reduction: 1 }, d, 'bert', r.split(`adapter ${k}`));
  const { down, downBias, up, upBias } = given ?? listOf(c.adapters.map((_, k) => placeholder(k)));
  return {
    train: {
      ...{ query: given?.query ?? normal('query'), queryBias: given?.queryBias ?? zeros() },
      ...{ key: given?.key ?? normal('key'), keyBias: given?.keyBias ?? zeros() },
      ...(c.value ? { value: given?.value ?? param(almostI, [d, d]) } : {}),
    },
    fixed: freeze({ down, downBias, up, upBias }),
    ...(c.temperature ? { buffer: { temperature: given?.temperature ?? param([50], [1], { active: false }) } } : {}),
  };
}
