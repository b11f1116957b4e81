// CoDA: in each block a router picks the k tokens that the frozen layers are computed for; a small adapter is computed for all.
//   a = attn(norm h), m = mlp(norm h'):   h' = h + p ⊙ a,   y = h' + p ⊙ m + A(norm h'),   p_t = λ_t for the k tokens of the largest λ, else 0
//   λ = argmax sᵀλ + ε H(λ) over λ ∈ [0, 1]ⁿ with Σ λ = k,   s_t = wᵀh_t;   by turns  u = ε (ln k − lse((s + v)/ε)),  v = min(−s − u, 0)
//   λ = exp((s + u + v)/ε), where ε falls from 4 by 0.7 a turn to its last value
// Lei et al. 2023, arXiv 2304.04947, §3. Longer than 100 lines: the differentiable top-k is here too.
import { oneHot } from '../../core/ops/index.ts';
import { where as choose, exp, min, stopGradient } from '../../core/ops/map.ts';
import { argmax, logsumexp } from '../../core/ops/reduce.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import { BASE, layer } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { between, wholeNumber } from '../check.ts';
import { bare } from '../site.ts';
import {
  type Bottleneck,
  type BottleneckConfig,
  type BottleneckInit,
  checkBottleneck,
  newBottleneck,
  sizeOf,
  throughBottleneck,
} from './bottleneck.ts';
import { realTokens } from './reading.ts';

export interface CodaConfig extends BottleneckConfig {
  readonly init: BottleneckInit;
  readonly tokens: number; // share of the tokens that are picked: k = ⌈tokens·n⌉
  readonly epsilon: number; // the last ε
  readonly turns: number;
}

/** λ [B, n] for scores [B, n]: each in [0, 1], and the sum of a row k once the turns have settled. */
export function softTopK(s: Tensor, k: number, { epsilon, turns }: Pick<CodaConfig, 'epsilon' | 'turns'>): Tensor {
  let [v, u] = [s.neg(), s];
  let e = Math.max(4, epsilon);
  for (let n = 0; n < turns; n++) {
    u = logsumexp(s.add(v).div(e), [-1], true).neg().add(Math.log(k)).mul(e);
    v = min(s.add(u).neg(), 0);
    if (n < turns - 1) e = Math.max(0.7 * e, epsilon);
  }
  return exp(s.add(u).add(v).div(e));
}

/** λ where it is one of the k largest of its row, else 0; padding is never picked before real tokens. */
function picked(s: Tensor, k: number, c: CodaConfig): Tensor {
  const lambda = softTopK(s, k, c);
  let left = stopGradient(s); // λ rises with s; of equals the first
  let all: Tensor | null = null;
  for (let n = 0; n < k; n++) {
    const one = oneHot(argmax(left), s.shape.at(-1)!);
    left = choose(one, -1e30, left);
    all = all === null ? one : all.add(one);
  }
  return lambda.mul(all!);
}

/**
 * The router learns through λ. Established are router, picks, soft top-k (ε from 4 by 0.7, 20 turns, last ε of 0.02 … 1 by task) and the
 * adapter beside the feed-forward. How λ multiplies is that of CoLT5 (the same authors, 2303.09752), and queries see the keys of all
 * tokens; w's start (here N(0, 1/d)) could not be verified. What is not picked is computed here and then left out: the saving is not
 * simulated. Picking reads the whole text, so it is for encoders, as in the paper. Adapter as `parallelAdapter`.
 * Count: 2md + 2d + m for each block.
 */
export const coda = defineMethod<'block', CodaConfig, Bottleneck & { readonly w: Tensor }>({
  name: 'coda',
  family: 'additive',
  paper: 'arXiv:2304.04947',
  at: 'block',
  defaults: { bottleneck: 64, reduction: 16, activation: 'relu', init: 'zero', tokens: 1 / 3, epsilon: 0.03, turns: 20, where: /./ },
  check: (site, c) => {
    checkBottleneck('coda', c);
    between('coda', 'tokens', c.tokens, Number.MIN_VALUE, 1, true);
    wholeNumber('coda', 'turns', c.turns);
    if (!(c.epsilon > 0)) throw new RangeError(`coda: epsilon ${c.epsilon} must be above 0`);
    if (bare(site.root).fields.causal === true)
      throw new Error(
        `coda at ${site.path}: which tokens are picked depends on the whole text, and in a decoder each token would learn of those after it; use an encoder`,
      );
  },
  init: (site, c, r) => {
    const d = site.dim('width');
    return { train: { ...newBottleneck(c, d, c.init, r), w: param(r.split('w').normal(d, 1 / Math.sqrt(d)), [1, d]) } };
  },
  around: (call, p, c, site) => (h, ctx) => {
    const [b, n] = h.shape as readonly [number, number, number];
    const s = h.matmul(p.w.T).reshape(b, n);
    const real = realTokens(h, ctx);
    const share = picked(real === null ? s : choose(real, s, -1e6), Math.ceil(c.tokens * n), c).reshape(b, n, 1);
    const routed = substitute(
      call,
      'branch',
      (l, path) => {
        const own = path.endsWith('.mlp') ? (x: Tensor): Tensor | null => throughBottleneck(x, p, c.activation) : (): null => null;
        return layer('branch', { [BASE]: l }, ({ [BASE]: l }) => (x: Tensor, at: Context) => {
          const [y, a] = [l(x, at).mul(share), own(x)];
          return a === null ? y : y.add(a);
        });
      },
      site.path,
    );
    return routed(h, ctx);
  },
  count: (sites, c) => {
    const train = sites.reduce((n, s) => n + sizeOf(c, s.dim('width')) + s.dim('width'), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});
