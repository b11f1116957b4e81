// ReFT: the hidden states of a few positions edited in a low-rank subspace, after each block.
//   LoReFT  h ← h + Rᵀ(W h + b − R h), R Rᵀ = I;   NoReFT  the same with any R;   DiReFT  h ← h + Rᵀ(W h + b);   R, W ∈ ℝ^{r×d}
//   at the first p and the last s real tokens of each text, with a unit (W, b, R) of its own for each of the two groups
// Wu et al. 2024, arXiv 2404.03592, §3.2. Units: reftUnit.ts; positions: reftPositions.ts.
import { dropout as drop } from '../../core/ops/fused.ts';
import { max, where } from '../../core/ops/map.ts';
import type { Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { dropoutFits, wholeNumber } from '../check.ts';
import { groups, type ReftConfig } from './reftPositions.ts';
import { editedBy, newUnits, type Reft } from './reftUnit.ts';

const units = (c: ReftConfig): number => (c.tied || c.prefix === 0 || c.suffix === 0 ? 1 : 2);

const variant = (name: string, isOrthonormal: boolean, subtracts: boolean) =>
  defineMethod<'block', ReftConfig, Reft>({
    name,
    family: 'additive',
    paper: 'arXiv:2404.03592',
    at: 'block',
    defaults: { rank: 1, prefix: 3, suffix: 0, tied: false, dropout: 0.05, where: /\bblocks\.\d+$/ },
    check: (site, c) => {
      const d = site.dim('width');
      if (!Number.isInteger(c.rank) || c.rank < 1 || c.rank > d)
        throw new RangeError(`${name}: rank ${c.rank} at ${site.path} must be a whole number from 1 to ${d}, the width`);
      dropoutFits(name, c.dropout);
      for (const k of ['prefix', 'suffix'] as const) if (c[k] !== 0) wholeNumber(name, k, c[k]);
      if (c.prefix + c.suffix === 0) throw new RangeError(`${name}: prefix and suffix are both 0, so no position would be edited; set one`);
    },
    init: (site, c, r) => ({ train: newUnits(units(c), c.rank, site.dim('width'), isOrthonormal, r) }),
    around: (call, p, c, site) => (x, ctx) => {
      const h = call(x, ctx); // [B, T, d]
      const { first, last } = groups(h, c, ctx);
      const edited = (k: number): Tensor => {
        const y = editedBy(p, k, h, isOrthonormal, subtracts);
        const mask = c.dropout === 0 ? null : ctx.draw.bernoulli(`${site.field} ${k}`, y.shape, 1 - c.dropout);
        return mask === null ? y : drop(y, mask, 1 - c.dropout);
      };
      if (units(c) === 1) return where(max(first, last), edited(0), h);
      return where(last, edited(1), where(first, edited(0), h)); // a token in both groups belongs to the last
    },
    count: (sites, c) => {
      const train = sites.reduce((n, s) => n + units(c) * c.rank * (2 * s.dim('width') + 1), 0);
      return { train, stored: train };
    },
    startsAsBase: () => 'no',
  });

/**
 * Positions count from the front of what the blocks see, a prompt's rows included. In generation the last s are those of the text given,
 * as the authors have it, and stay edited while the text goes on. The default dropout and one unit per group are those of the adapters
 * library, which tunes 3 positions from the front; W, b, and an R that need not be orthonormal start U(±1/√d). R is trained through Gram–Schmidt, where the authors' framework
 * multiplies reflections: the same set of subspaces. Count: r(2d + 1) per unit. Depends on the position, so it cannot be merged.
 */
export const loreft = variant('loreft', true, true);

export const noreft = variant('noreft', false, true);

export const direft = variant('direft', false, false);
