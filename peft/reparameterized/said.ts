// Structure-aware intrinsic dimension (SAID): a random subspace of a few dimensions, with a trained gain for each weight.
//   θ_t = θ_t⁰ + λ_t·P_t z,   one z for all weights t;   P_t z = H G Π H B z / (√(LL·ΣG²)·√(D/LL)), cut to D = size(θ_t)
//   H Walsh–Hadamard of LL = 2^⌈log₂ D⌉, B random signs, Π a random order, G ~ N(0, 1) (Fastfood, Le et al. 2013)
// Aghajanyan et al. 2021, arXiv 2012.13255, §3.2. P_t keeps lengths in the mean and costs no memory for a matrix.
import { type Shape, size } from '../../core/shape.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import type { Site } from '../site.ts';
import { fastfood } from './fastfood.ts';

export interface SaidConfig {
  readonly dim: number; // of everything trained: z and the λ_t
  readonly projection: number; // seed of B, Π and G, which are drawn again and not stored
}

type Said = { z: Tensor; lambda: Tensor };

/** λ·P z, the projection drawn when it is first needed. */
function change({ z, lambda }: Said, { projection }: SaidConfig, path: string): (shape: Shape) => Tensor {
  const held: { p?: (z: Tensor) => Tensor } = {};
  return (shape) => {
    held.p ??= fastfood(shape, projection, path);
    return held.p(z).mul(lambda);
  };
}

/** |z|: what the λ_t leave of dim. The authors' code leaves one number less, and trains dim − 1. */
const left = ({ of }: Pick<Site<'weight'>, 'of'>, { dim }: SaidConfig): number => dim - of;

/** z starts at 0 and every λ at 1. By default all weights of the blocks, dim 20 000 (T-Few's). Rate 3e-2. Count: dim. */
export const said = defineMethod<'weight', SaidConfig, Said, Tensor>({
  name: 'said',
  family: 'reparameterized',
  paper: 'arXiv:2012.13255',
  at: 'weight',
  defaults: { dim: 20_000, projection: 0, where: /\bblocks\./ },
  check: (site, c) => {
    wholeNumber('said', 'dim', c.dim);
    wholeNumber('said', 'projection', c.projection, 0);
    if (left(site, c) < 1)
      throw new RangeError(`said: dim ${c.dim} leaves nothing beside one gain for each of ${site.of} weights; take more than ${site.of}`);
    if (size(site.shape) >= 2 ** 23)
      throw new RangeError(
        `said: ${site.path} has ${size(site.shape)} entries, and its transform would have 2²⁴ or more; name smaller weights`,
      );
  },
  shared: (sites, c) => param(new Float32Array(left(sites[0]!, c)), [left(sites[0]!, c)], { decay: false }),
  init: (_site, _c, _r, { shared }) => ({ train: { z: shared, lambda: param([1], [1], { decay: false }) } }),
  around: (call, p, c, { path }) => {
    const moved = change(p, c, path);
    return (ctx) => {
      const w = call(ctx);
      return w.add(moved(w.shape));
    };
  },
  fold: ({ weight, bias }, p, c, { path }) => ({ weight: weight.add(change(p, c, path)(weight.shape)), bias }),
  count: (_, { dim }) => ({ train: dim, stored: dim }),
  startsAsBase: () => 'close', // adds an exact zero
});
