// Ladder Side Tuning: a small transformer beside the frozen one reads its hidden states, and answers in its place.
//   s₀ = D₀ h₀;   s_i = Side_i( μ_i s_{i−1} + (1 − μ_i) D_i sg(h_i) ),   μ_i = sigmoid(α_i / T);   y = U norm(s_L)
// h₀ enters the first block and h_i leaves block i; sg stops gradients, so that backward never enters the backbone and nothing of it is
// kept. Side_i is a block of the backbone's make with every size divided by ρ. Sung et al. 2022, arXiv 2206.06522, §3.
// Longer than 80 lines: it attaches a whole network, whose parts it makes, runs and counts.
import { layerNorm, rmsNorm } from '../../core/ops/fused.ts';
import { add, mul, sigmoid, stopGradient, sub } from '../../core/ops/map.ts';
import type { Rng } from '../../core/rng.ts';
import { named } from '../../core/scope.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import { BASE, layer } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import type { Site } from '../site.ts';
import { blockOf, linearParts, made, normParts, parts, scalars } from './sideBlock.ts';
import { makeOf, wholeMake } from './sideMake.ts';

export interface LstConfig {
  readonly reduction: number; // ρ
  readonly temperature: number; // T of the gates
  readonly bias: boolean; // of D_i and U
  readonly blocks: readonly number[] | null; // backbone blocks that have a side block; null: all (the paper drops some)
}
type Ladder = {
  readonly first: readonly Tensor[]; // D₀, and its bias
  readonly down: readonly Tensor[]; // D_i, each followed by its bias
  readonly alpha: readonly Tensor[];
  readonly side: readonly Tensor[]; // all blocks' tensors, in the order of `parts`
  readonly norm: readonly Tensor[];
  readonly up: readonly Tensor[]; // U, and its bias
};

const which = (site: Site<'trunk'>, c: LstConfig): readonly number[] => c.blocks ?? site.within('block').map((_, k) => k);

const through = (x: Tensor, w: readonly Tensor[]): Tensor => (w[1] === undefined ? x.matmul(w[0]!.T) : x.matmul(w[0]!.T).add(w[1]));

/**
 * Defaults ρ = 8, T = 0.1, α_i = 0 (so μ_i = ½) as in the authors' code; D_i and U ~ N(0, 0.01²) as there, blocks N(0, 0.02²). The authors
 * start the side blocks from the backbone's weights, pruned; that is not here. The answer is the side network's alone, so it never
 * starts as the base. Count: per side block its own tensors (about 12 (d/ρ)²), d²/ρ (+ d/ρ) for D_i and 1 for α_i; besides D₀, U and a norm.
 */
export const lst = defineMethod<'trunk', LstConfig, Ladder>({
  name: 'lst',
  family: 'additive',
  paper: 'arXiv:2206.06522',
  at: 'trunk',
  defaults: { reduction: 8, temperature: 0.1, bias: true, blocks: null, where: 'trunk' },
  check: (site, c) => {
    wholeNumber('lst', 'reduction', c.reduction);
    if (!(c.temperature > 0)) throw new RangeError(`lst: temperature ${c.temperature} must be above 0`);
    const all = site.within('block').length;
    const wrong = c.blocks?.find((k, i) => !Number.isInteger(k) || k < 0 || k >= all || c.blocks!.indexOf(k) !== i);
    if (wrong !== undefined || c.blocks?.length === 0)
      throw new RangeError(`lst: blocks ${c.blocks} must name different blocks of 0 … ${all - 1}, at least one`);
    wholeMake('lst', site, c.reduction);
  },
  init: (site, c, r) => {
    const m = makeOf(site, c.reduction);
    const d = site.dim('width');
    const own = which(site, c);
    const each = (name: string, f: (r: Rng) => Tensor[]): Tensor[] => own.flatMap((k) => f(r.split(name).split(k)));
    return {
      train: {
        first: made(linearParts(m.d, d, c.bias), r.split('first'), 0.01),
        down: each('down', (own) => made(linearParts(m.d, d, c.bias), own, 0.01)),
        alpha: own.map(() => param([0], [1], { decay: false })),
        side: each('side', (own) => made(parts(m), own, 0.02)),
        norm: made(normParts(m), r, 0),
        up: made(linearParts(d, m.d, c.bias), r.split('up'), 0.01),
      },
    };
  },
  around: (call, p, c, site) => (h, ctx) => {
    const m = makeOf(site, c.reduction);
    const seen: { into: Tensor; out: Tensor; ctx: Context }[] = [];
    const listening = substitute(call, 'block', (l) =>
      layer('block', { [BASE]: l }, ({ [BASE]: l }) => (x, at) => {
        const out = l(x, at);
        seen.push({ into: x, out, ctx: at });
        return out;
      }),
    );
    listening(h, ctx); // its answer is not used, and so never computed
    const [perBlock, perDown] = [parts(m).length, c.bias ? 2 : 1];
    let s = through(stopGradient(seen[0]!.into), p.first); // [B, T, d/ρ]
    for (const [i, k] of which(site, c).entries()) {
      const mu = sigmoid(p.alpha[i]!.mul(1 / c.temperature));
      const h = through(stopGradient(seen[k]!.out), p.down.slice(i * perDown, (i + 1) * perDown));
      const mixed = add(mul(mu, s), mul(sub(1, mu), h));
      s = named(`${site.field}.blocks.${k}`, () => blockOf(m, p.side.slice(i * perBlock, (i + 1) * perBlock))(mixed, seen[k]!.ctx));
    }
    const normed = m.rms ? rmsNorm(s, p.norm[0]!, m.eps) : layerNorm(s, p.norm[0]!, p.norm[1]!, m.eps);
    return through(normed.slice(1, -h.shape[1]!), p.up); // without the tokens of a prompt beneath
  },
  count: (sites, c) => {
    const train = sites.reduce((n, site) => {
      const [m, d] = [makeOf(site, c.reduction), site.dim('width')];
      const sampler = scalars(linearParts(m.d, d, c.bias));
      const each = scalars(parts(m)) + sampler + 1;
      return n + which(site, c).length * each + sampler + scalars(normParts(m)) + scalars(linearParts(d, m.d, c.bias));
    }, 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});
