// Intrinsic dimension, dense (DID): all tuned weights move together in a random subspace of a few dimensions.
//   θ_t = θ_t⁰ + R_t z,   one z ∈ ℝ^dim for all weights t, R_t fixed, its entries N(0, 0.01²)
// Aghajanyan et al. 2021, arXiv 2012.13255, §3.1, after Li et al. 2018, arXiv 1804.08838. The smallest dim that reaches 90 % of
// full fine-tuning is a task's intrinsic dimension, d₉₀.
import { rng } from '../../core/rng.ts';
import { type Shape, size } from '../../core/shape.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';

export interface DidConfig {
  readonly dim: number;
  readonly projection: number; // seed of the R_t, which are drawn again and not stored
}

/** R_t z in the shape of the weight: a matrix of size(shape)·dim numbers, for small models; said.ts needs none. */
function change(z: Tensor, { dim, projection }: DidConfig, path: string): (shape: Shape) => Tensor {
  const held: { r?: Tensor } = {};
  return (shape) => {
    held.r ??= leaf(
      rng(projection)
        .split(`did ${path}`)
        .normal(size(shape) * dim, 0.01),
      [size(shape), dim],
    );
    return held.r.matmul(z.reshape(dim, 1)).reshape(...shape);
  };
}

/** z starts at 0. By default all weights of the blocks; a head is often tuned along: name it in `where`. Count: dim. */
export const did = defineMethod<'weight', DidConfig, { z: Tensor }, Tensor>({
  name: 'did',
  family: 'reparameterized',
  paper: 'arXiv:2012.13255',
  at: 'weight',
  defaults: { dim: 200, projection: 0, where: /\bblocks\./ },
  check: (_, c) => {
    wholeNumber('did', 'dim', c.dim);
    wholeNumber('did', 'projection', c.projection, 0);
  },
  shared: (_, { dim }) => param(new Float32Array(dim), [dim], { decay: false }),
  init: (_site, _c, _r, { shared }) => ({ train: { z: shared } }),
  around: (call, { z }, c, { path }) => {
    const moved = change(z, c, path);
    return (ctx) => {
      const w = call(ctx);
      return w.add(moved(w.shape));
    };
  },
  fold: ({ weight, bias }, { z }, c, { path }) => ({ weight: weight.add(change(z, c, path)(weight.shape)), bias }),
  count: (_, { dim }) => ({ train: dim, stored: dim }),
  startsAsBase: () => 'close', // adds an exact zero
});
