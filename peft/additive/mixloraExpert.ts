// One expert of MixLoRA: the frozen feed-forward network with a low-rank update at each of its layers.
//   FFN_e: every layer of it W x + b + s·B_e A_e x, s = α/r
// Li et al. 2024, arXiv 2404.15159, §3.
import type { Tensor } from '../../core/tensor.ts';
import { BASE, type Layer, layer } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import { dropped } from '../reparameterized/lora.ts';
import type { Site } from '../site.ts';
import type { TopConfig } from './topRouter.ts';

export interface MixloraConfig extends TopConfig {
  readonly rank: number; // r of each expert
  readonly alpha: number;
  readonly dropout: number; // on the input of each update; the router reads x whole
}

/** The linear layers of a feed-forward network. */
export const inside = (site: Site<'branch'>): readonly Site<'linear'>[] => site.within('linear');

const updated = (call: Layer<'linear'>, A: Tensor, B: Tensor, c: MixloraConfig, site: Site<'linear'>): Layer<'linear'> =>
  layer(
    'linear',
    { [BASE]: call },
    () => (x, ctx) =>
      call(x, ctx).add(
        dropped(x, c, site, ctx)
          .matmul(A.T)
          .matmul(B.T)
          .mul(c.alpha / c.rank),
      ),
  );

/** Expert e of lists A and B that hold the updates of expert 0 at every layer, then those of expert 1, … */
export const expertOf = (
  call: Layer<'branch'>,
  e: number,
  A: readonly Tensor[],
  B: readonly Tensor[],
  c: MixloraConfig,
  site: Site<'branch'>,
): Layer<'branch'> => {
  const at = inside(site);
  return substitute(
    call,
    'linear',
    (l, path) => {
      const k = at.findIndex((s) => s.path === path);
      if (k < 0) return null;
      const own = Object.create(at[k]!, { field: { value: `${site.field} ${e}`, enumerable: true } }) as Site<'linear'>; // drops of its own
      return updated(l, A[e * at.length + k]!, B[e * at.length + k]!, c, own);
    },
    site.path,
  );
};
