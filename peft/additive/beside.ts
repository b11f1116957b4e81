// A sublayer with an adapter beside it: x ↦ f(x) + A(x).
import type { Tensor } from '../../core/tensor.ts';
import { BASE, type Layer, layer } from '../../nn/layer.ts';

/** The branch f with A, x [B, T, d] → [B, T, d], beside it. */
export const beside = (f: Layer<'branch'>, A: (x: Tensor) => Tensor): Layer<'branch'> =>
  layer(
    'branch',
    { [BASE]: f },
    ({ [BASE]: f }) =>
      (x, ctx) =>
        f(x, ctx).add(A(x)),
  );
