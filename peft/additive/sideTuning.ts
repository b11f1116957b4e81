// Side-tuning: a small network beside the frozen one reads the same text, and the two answers are blended.
//   y = a·B(x) + (1 − a)·S(x),   a = sigmoid(α);   S(x) = U norm(blocks(D x))
// The paper leaves S open (a small network, a copy of the base, …) and fixes the blend. Here S has blocks of the base's make with every size
// divided by ρ, between two projections. Zhang et al. 2020, arXiv 1912.13503, §3; α = 0 at the start as in the authors' code.
import { sigmoid, sub } from '../../core/ops/map.ts';
import { named } from '../../core/scope.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import { blocksHeard } from './blocksHeard.ts';
import { blockOf, linearParts, made, normed, normParts, parts, scalars, through } from './sideBlock.ts';
import { makeOf, wholeMake } from './sideMake.ts';

export interface SideTuningConfig {
  readonly reduction: number; // ρ
  readonly blocks: number; // of the side network
}
type Side = {
  readonly alpha: Tensor;
  readonly down: readonly Tensor[]; // D, and its bias
  readonly side: readonly Tensor[]; // all blocks' tensors, in the order of `parts`
  readonly norm: readonly Tensor[];
  readonly up: readonly Tensor[]; // U, and its bias
};

/**
 * B is frozen, so backward runs through S alone. S starts from N(0, 0.02²); the authors often distil it from the base first, which is not
 * here. Defaults ρ = 8 and one block are ours. Count: 1, the blocks' own tensors (about 12 (d/ρ)² each), 2d²/ρ + d + d/ρ and a norm.
 */
export const sideTuning = defineMethod<'trunk', SideTuningConfig, Side>({
  name: 'sideTuning',
  family: 'additive',
  paper: 'arXiv:1912.13503',
  at: 'trunk',
  defaults: { reduction: 8, blocks: 1, where: 'trunk' },
  check: (site, c) => {
    for (const name of ['reduction', 'blocks'] as const) wholeNumber('sideTuning', name, c[name]);
    wholeMake('sideTuning', site, c.reduction);
  },
  init: (site, c, r) => {
    const [m, d] = [makeOf(site, c.reduction), site.dim('width')];
    return {
      train: {
        alpha: param([0], [1], { decay: false }),
        down: made(linearParts(m.d, d, true), r.split('down'), 0.02),
        side: Array.from({ length: c.blocks }, (_, k) => made(parts(m), r.split('side').split(k), 0.02)).flat(),
        norm: made(normParts(m), r, 0),
        up: made(linearParts(d, m.d, true), r.split('up'), 0.02),
      },
    };
  },
  around: (call, p, c, site) => (h, ctx) => {
    const m = makeOf(site, c.reduction);
    const { answer, heard } = blocksHeard(call, h, ctx); // [B, T, d]
    const { into, ctx: at } = heard[0]!; // with its positions
    const each = parts(m).length;
    let s = through(into, p.down); // [B, T, d/ρ]
    for (let k = 0; k < c.blocks; k++)
      s = named(`${site.field}.blocks.${k}`, () => blockOf(m, p.side.slice(k * each, (k + 1) * each))(s, at));
    const side = through(normed(m, s, p.norm).slice(1, -h.shape[1]!), p.up); // without the tokens of a prompt beneath
    const a = sigmoid(p.alpha);
    return answer.mul(a).add(side.mul(sub(1, a)));
  },
  count: (sites, c) => {
    const train = sites.reduce((n, site) => {
      const [m, d] = [makeOf(site, c.reduction), site.dim('width')];
      const ends = scalars([...linearParts(m.d, d, true), ...linearParts(d, m.d, true), ...normParts(m)]);
      return n + 1 + c.blocks * scalars(parts(m)) + ends;
    }, 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});
