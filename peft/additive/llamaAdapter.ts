// LLaMA-Adapter: prompt rows that attention reads through the frozen projections, in a softmax of their own behind a gate that starts at 0.
//   o = softmax(q kᵀ/√D + mask) v + g·softmax(q K_pᵀ/√D) V_p,   K_p = W_k P,  V_p = W_v P,  P ∈ ℝ^{K×d};  K_p is not rotated
//   g = tanh(gate), one for each head (the authors), or one number as it is (Hugging Face PEFT)
// Zhang et al. 2023, arXiv 2303.16199, §3.
import { attention } from '../../core/ops/fused.ts';
import { tanh } from '../../core/ops/map.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { BASE, layer } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import type { Site } from '../site.ts';
import { keysAndValues } from './adaptionRows.ts';
import { asHeads } from './prefixAttention.ts';

export interface LlamaAdapterConfig {
  readonly length: number; // K
  readonly gate: 'heads' | 'one'; // tanh of one number per head, or one number without tanh
  readonly project: boolean; // the gated part passes W_o with the rest; false: added behind it, as Hugging Face PEFT does on GPT-2
}

type Prompt = { readonly P: Tensor; readonly gate: Tensor };

const gates = (site: Site<'branch'>, c: LlamaAdapterConfig): number => (c.gate === 'one' ? 1 : site.within('attend')[0]!.dim('heads'));

/**
 * P ~ N(0, 1), gate 0: it starts as the base, and the first gradient goes to the gate alone. Defaults are the authors'; they adapt the top
 * 30 of LLaMA-7B's 32 blocks: `where: fromBlock(2, 'attn')`. Hugging Face's form is `gate: 'one'`, on GPT-2 with `project: false`. Every
 * token sees all rows. Learning rate 9e-3. Count: Kd + H for each attention, or Kd + 1.
 */
export const llamaAdapter = defineMethod<'branch', LlamaAdapterConfig, Prompt>({
  name: 'llamaAdapter',
  family: 'additive',
  paper: 'arXiv:2303.16199',
  at: 'branch',
  defaults: { length: 10, gate: 'heads', project: true, where: 'attn' },
  takes: { gate: ['heads', 'one'] },
  check: (site, c) => {
    wholeNumber('llamaAdapter', 'length', c.length);
    if (site.within('attend').length === 0)
      throw new Error(
        `llamaAdapter: ${site.path} is no attention, and the rows are keys and values; choose attention branches: where: 'attn'`,
      );
  },
  init: (site, c, r) => {
    const [d, n] = [site.dim('width'), gates(site, c)];
    return { train: { P: param(r.normal(c.length * d), [c.length, d]), gate: param(new Float32Array(n), [n], { decay: false }) } };
  },
  around:
    (call, { P, gate }, c, site) =>
    (x, ctx) => {
      const [keys, values] = keysAndValues(call, P, ctx);
      const g = (c.gate === 'heads' ? tanh(gate) : gate).reshape(1, -1, 1, 1);
      const behind: Tensor[] = [];
      const gated = substitute(
        call,
        'attend',
        (l) =>
          layer('attend', { [BASE]: l }, ({ [BASE]: l }) => (q, k, v, at) => {
            const [b, h, t, width] = q.shape as readonly [number, number, number, number];
            const own = attention(q, asHeads(keys, k), asHeads(values, v)).mul(g); // [B, H, T, D]
            if (c.project) return l(q, k, v, at).add(own);
            behind.push(own.permute(0, 2, 1, 3).reshape(b, t, h * width));
            return l(q, k, v, at);
          }),
        site.path,
      );
      const y = gated(x, ctx); // [B, T, d]
      return behind.reduce((sum, own) => sum.add(own), y);
    },
  count: (sites, c) => {
    const train = sites.reduce((n, s) => n + c.length * s.dim('width') + gates(s, c), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
