// Res-Tuning (bypass): small tuners beside the frozen network, fed by its hidden states, whose last answer stands for the last block's.
//   b₀ = sg(h₀);   b_i = L_i(sg(h_i)) + V_i(b_{i−1}),   L, V: x + W₂ GELU(W₁ x + c₁) + c₂;   trunk: norm(b_L)
// h₀ enters the first block, h_i leaves block i; sg stops gradients, so that backward never enters the blocks, and one forward pass of them
// serves many tasks. Jiang et al. 2023, arXiv 2310.19859, §3.3, as in the authors' library (`swift`).
import { stopGradient } from '../../core/ops/map.ts';
import type { Rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { BASE, layer } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import type { Site } from '../site.ts';
import { lastRows } from './blocksHeard.ts';
import { type Bottleneck, type BottleneckConfig, checkBottleneck, listOf, sizeOf, TAKES, throughKth, widthOf } from './bottleneck.ts';

export interface ResTuningConfig extends BottleneckConfig {
  readonly zeroLast: boolean; // W₂ of the last block's two tuners starts at 0
}
type Bypass = ReturnType<typeof listOf>; // L₁, V₁, L₂, V₂, …

/** W ~ U(±√(6/(d + m))) (Xavier), biases N(0, 10⁻¹²). */
function newTuner(m: number, d: number, zero: boolean, r: Rng): Bottleneck {
  const bound = Math.sqrt(6 / (d + m));
  const bias = (name: string, n: number): Tensor => param(r.split(name).normal(n, 1e-6), [n], { decay: false });
  return {
    down: param(r.split('down').uniform(m * d, -bound, bound), [m, d]),
    downBias: bias('downBias', m),
    up: param(zero ? new Float32Array(d * m) : r.split('up').uniform(d * m, -bound, bound), [d, m]),
    upBias: zero ? param(new Float32Array(d), [d], { decay: false }) : bias('upBias', d),
  };
}
const blocks = (site: Site<'trunk'>): number => site.within('block').length;

/**
 * Defaults are the library's: m = 10, GELU, no scale on a tuner's answer. The paper's other form, tuners added to sublayers, is
 * `parallelAdapter` (Res-Adapter), `prefixTuning` (Res-Prefix) and prompts (Res-Prompt), which are methods of their own here. With the
 * residuals the fresh bypass adds h_L to h_{L−1} … h₀, so it never starts as the base. Count: 2L(2md + m + d).
 */
export const resTuning = defineMethod<'trunk', ResTuningConfig, Bypass>({
  name: 'resTuning',
  family: 'additive',
  paper: 'arXiv:2310.19859',
  at: 'trunk',
  defaults: { bottleneck: 10, reduction: 16, activation: 'gelu', zeroLast: false, where: 'trunk' },
  takes: TAKES,
  check: (_, c) => checkBottleneck('resTuning', { ...c, init: 'bert' }),
  init: (site, c, r) => {
    const [d, n] = [site.dim('width'), blocks(site)];
    return {
      train: listOf(Array.from({ length: 2 * n }, (_, k) => newTuner(widthOf(c, d), d, c.zeroLast && k >= 2 * n - 2, r.split(k)))),
    };
  },
  around: (call, p, c, site) => (h, ctx) => {
    const tuned = (x: Tensor, k: number): Tensor => x.add(throughKth(x, p, k, c.activation));
    const seen: Tensor[] = []; // b_i so far
    const last = blocks(site) - 1;
    const beside = substitute(call, 'block', (l) =>
      layer('block', { [BASE]: l }, ({ [BASE]: l }) => (x, at) => {
        if (seen.length > last) seen.length = 0; // a method beneath may walk the blocks twice (X-LoRA)
        const k = seen.length;
        const out = l(x, at); // [B, T, d]
        const [own, before] = [tuned(stopGradient(out), 2 * k), tuned(seen[k - 1] ?? stopGradient(x), 2 * k + 1)];
        const rows = Math.min(own.shape[1]!, before.shape[1]!);
        seen.push(lastRows(own, rows).add(lastRows(before, rows)));
        return k === last ? lastRows(seen[k]!, out.shape[1]!) : out;
      }),
    );
    return beside(h, ctx);
  },
  count: (sites, c) => {
    const train = sites.reduce((n, s) => n + 2 * blocks(s) * sizeOf(c, s.dim('width')), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});
