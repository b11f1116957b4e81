// Ladder Side Tuning: a small transformer beside the frozen one reads its hidden states, and answers in its place.
//   s₀ = D₀ h₀;   s_i = Side_i( μ_i s_{i−1} + (1 − μ_i) D_i sg(h_i) ),   μ_i = sigmoid(α_i / T);   y = U norm(s_L)
// h₀ enters the first block and h_i leaves block i; sg stops gradients, so that backward never enters the backbone and nothing of it is
// kept. Side_i is a block of the backbone's make with every size divided by ρ. Sung et al. 2022, arXiv 2206.06522, §3.
// The side network: ladder.ts.
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import { blocksHeard } from './blocksHeard.ts';
import { climbed, type Ladder, type LstConfig, ladderSize, newLadder } from './ladder.ts';
import { through } from './sideBlock.ts';
import { wholeMake } from './sideMake.ts';

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
  takes: { blocks: [null, Array] },
  check: (site, c) => {
    wholeNumber('lst', 'reduction', c.reduction);
    if (!(c.temperature > 0)) throw new RangeError(`lst: temperature ${c.temperature} must be above 0`);
    const all = site.within('block').length;
    const wrong = c.blocks?.find((k, i) => !Number.isInteger(k) || k < 0 || k >= all || c.blocks!.indexOf(k) !== i);
    if (wrong !== undefined || c.blocks?.length === 0)
      throw new RangeError(`lst: blocks ${c.blocks} must name different blocks of 0 … ${all - 1}, at least one`);
    wholeMake('lst', site, c.reduction);
  },
  init: (site, c, r) => ({ train: newLadder(site, c, r) }),
  around: (call, p, c, site) => (h, ctx) => {
    const { heard } = blocksHeard(call, h, ctx);
    return through(climbed(site, p, c, heard).slice(1, -h.shape[1]!), p.up); // without the tokens of a prompt beneath
  },
  count: (sites, c) => {
    const train = sites.reduce((n, site) => n + ladderSize(site, c), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});
