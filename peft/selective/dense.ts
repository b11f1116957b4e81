// A change to every entry of some weights: what methods share that train parts of a network as they are.
//   W' = W + δ;   δ starts at −0: w + −0 is w bit for bit, even where w is −0
import { size } from '../../core/shape.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import type { Method } from '../method.ts';
import type { Site } from '../site.ts';

export type Dense = { delta: Tensor };

/** δ of a weight. Weight decay draws matrices back to where they were; vectors are left alone. */
export const dense = ({ shape }: Site<'weight'>): Dense => ({
  delta: param(new Float32Array(size(shape)).fill(-0), shape, { decay: shape.length > 1 }),
});
const scalars = (sites: readonly Site<'weight'>[]): number => sites.reduce((n, s) => n + size(s.shape), 0);

/** The equation, its merge and its count. */
export const change: Pick<Required<Method<'weight', object, Dense>>, 'around' | 'fold' | 'count' | 'startsAsBase'> = {
  around:
    (call, { delta }) =>
    (ctx) =>
      call(ctx).add(delta),
  fold: ({ weight, bias }, { delta }) => ({ weight: weight.add(delta), bias }),
  count: (sites) => ({ train: scalars(sites), stored: scalars(sites) }),
  startsAsBase: () => 'bitwise',
};
