// CapaBoost: one pair of LoRA factors used d times in parallel, each time under other fixed random masks: a higher rank from the same numbers.
//   y = W x + b + s·Σᵢ (B ⊙ Mᵢ)(A ⊙ Nᵢ) drop(x),   i = 1 … d,   s = α/r;   each mask keeps the share `density` of its places
//   A ~ U(±1/√in), B = 0;   every mask is drawn on its own. The rank may reach d·r. d = 1 and density 1 is LoRA.
// Song et al. 2024, ICLR, arXiv 2407.01320, §3, as the authors' code has it for LoRA (with r = 1, α = 16, d = 2, density 0.5).
import { concat } from '../../core/ops/move.ts';
import { rng } from '../../core/rng.ts';
import { type Shape, size } from '../../core/shape.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between, wholeNumber } from '../check.ts';
import type { Site } from '../site.ts';
import { checkUpdate, dropped, type Factors, factors, scaling, type UpdateConfig, update } from './lora.ts';

export interface CapaBoostConfig extends UpdateConfig {
  readonly parallel: number; // d
  readonly density: number; // share of places that a mask keeps
  readonly masks: number; // seed of the masks, which are drawn again and not stored
}

/** The d masked copies as one pair of factors: A's one above the other [d·r, in], B's side by side [out, d·r]. */
function copies({ path }: Site<'linear'>, { parallel, density, masks }: CapaBoostConfig): (p: Factors) => Factors {
  const held = new Map<string, Tensor>();
  const mask = (name: string, shape: Shape): Tensor => {
    const found = held.get(name);
    if (found !== undefined) return found;
    const n = size(shape);
    const m = new Float32Array(n);
    for (const k of rng(masks)
      .split(`capaBoost ${path}`)
      .split(name)
      .permutation(n)
      .slice(0, Math.floor(n * density)))
      m[k] = 1;
    const made = leaf(m, shape);
    held.set(name, made);
    return made;
  };
  const each = Array.from({ length: parallel }, (_, i) => i);
  return ({ A, B }) => ({
    A: concat(
      each.map((i) => A.mul(mask(`A ${i}`, A.shape))),
      0,
    ),
    B: concat(
      each.map((i) => B.mul(mask(`B ${i}`, B.shape))),
      1,
    ),
  });
}

/** Count: r(in + out), as LoRA; with a seed in place of the masks nothing else is stored. */
export const capaBoost = defineMethod<'linear', CapaBoostConfig, Factors>({
  name: 'capaBoost',
  family: 'reparameterized',
  paper: 'arXiv:2407.01320',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, parallel: 2, density: 0.5, masks: 0, where: ['q', 'v'] },
  check: (site, c) => {
    checkUpdate('capaBoost')(site, c);
    wholeNumber('capaBoost', 'parallel', c.parallel);
    wholeNumber('capaBoost', 'masks', c.masks, 0);
    between('capaBoost', 'density', c.density, 0, 1, true);
    if (Math.floor(Math.min(...site.shape) * c.rank * c.density) < 1)
      throw new RangeError(`capaBoost: density ${c.density} at ${site.path} leaves a factor without a single number; choose more`);
  },
  init: (site, c, r) => ({ train: factors(site, { ...c, init: 'kaiming' }, r) }),
  around: (call, p, c, site) => {
    const masked = copies(site, c);
    return (x, ctx) => {
      const { A, B } = masked(p);
      return call(x, ctx).add(dropped(x, c, site, ctx).matmul(A.T).matmul(B.T).mul(scaling(c)));
    };
  },
  fold: ({ weight, bias }, p, c, site) => {
    const { A, B } = copies(site, c)(p);
    return { weight: weight.add(B.matmul(A).mul(scaling(c))), bias };
  },
  count: update.count,
  startsAsBase: () => 'close', // adds an exact zero
});
