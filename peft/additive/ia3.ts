// (IA)³: keys, values and feed-forward activations rescaled by trained vectors.
//   softmax(q (l_k ⊙ k)ᵀ/√D)(l_v ⊙ v),   W_down (l_ff ⊙ σ(W_up x))
// Liu et al. 2022, arXiv 2205.05638, §3.3.
import { full } from '../../core/ops/map.ts';
import { concat, reshape } from '../../core/ops/move.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import type { Kind } from '../../nn/layer.ts';
import { defineMethod } from '../attach.ts';
import { matches, PLACES, type Site, type Where } from '../site.ts';

export interface Ia3Config {
  readonly feedforward: Where; // sites whose input is rescaled; elsewhere it is the output, after the bias
  readonly queries: boolean; // whether a fused qkv is rescaled on its queries too, as Hugging Face PEFT does; the paper does not
}
const rescalesInput = (site: Site<Kind>, c: Ia3Config): boolean => matches(c.feedforward, site.path);

/** Length of l: the input, the output, or of a fused [q; k; v] output the k and v part. */
function sizeAt(site: Site<'linear'>, c: Ia3Config): number {
  const [out, into] = site.shape as readonly [number, number];
  if (rescalesInput(site, c)) return into;
  return site.path.endsWith('.qkv') && !c.queries ? (2 * out) / 3 : out;
}
/** One factor per output: 1 for those that l leaves alone. */
const factors = (l: Tensor, out: number): Tensor => (l.shape[0] === out ? l : concat([full([out - l.shape[0]!], 1), l], 0));

/**
 * A fused projection (`fusedQkv`) stands in for k and v, of which l is as long as the two.
 * l starts at 1 and is not decayed: decay would pull towards 0, which is not where the base is. With rotary positions k is rescaled
 * before it is rotated. Count: d_k + d_v + f for each block.
 */
export const ia3 = defineMethod<'linear', Ia3Config, { readonly l: Tensor }>({
  name: 'ia3',
  family: 'additive',
  paper: 'arXiv:2205.05638',
  at: 'linear',
  defaults: { feedforward: 'down', queries: false, where: ['k', 'v', 'down'] },
  takes: { feedforward: PLACES },
  otherwise: "Where queries, keys and values are one layer, write where: ['qkv', 'down'].",
  init: (site, c) => {
    const n = sizeAt(site, c);
    return { train: { l: param(new Float32Array(n).fill(1), [n], { decay: false }) } };
  },
  around: (call, { l }, c, site) =>
    rescalesInput(site, c) ? (x, ctx) => call(x.mul(l), ctx) : (x, ctx) => call(x, ctx).mul(factors(l, site.shape[0]!)),
  fold: ({ weight, bias }, { l }, c, site) => {
    if (rescalesInput(site, c)) return { weight: weight.mul(l), bias }; // W diag(l)
    const f = factors(l, site.shape[0]!);
    return { weight: weight.mul(reshape(f, [-1, 1])), bias: bias === null ? null : bias.mul(f) }; // diag(l) W, l ⊙ b
  },
  count: (sites, c) => {
    const train = sites.reduce((n, s) => n + sizeAt(s, c), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'bitwise',
});
