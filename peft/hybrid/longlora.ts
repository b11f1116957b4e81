// LongLoRA's trained part: LoRA on the four attention projections, with embedding table and norms trained whole beside it.
//   ΔW = s·B A on q, k, v, o;   E' = E + δ_E,   g' = g + δ_g
// Chen et al. 2024, arXiv 2309.12307, §3.3 ("LoRA+"). The two other parts of LongLoRA change the model and bring no parameters:
// `interpolatePositions` (nn/interpolate.ts) and, for training, `shiftedAttention`:
//   const long = longlora()(interpolatePositions(base, 4 * 2048));
//   await using t = await trainer(shiftedAttention()(long), …);   const trained = await t.model(long);
import type { Model } from '../../nn/layer.ts';
import { layers } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { guarded, hybrid } from '../combine.ts';
import type { Transform } from '../method.ts';
import { lora } from '../reparameterized/lora.ts';
import { change, type Dense, dense } from '../selective/dense.ts';

/**
 * The embedding table and all norms, trained whole: each as a change δ that starts at −0 (the base bit for bit). The authors train
 * without weight decay. An untied head is not among them: the authors choose by the names "embed" and "norm".
 * A tied table is trained when `where` names both its sides. Count: Vd and the norms.
 */
export const embedAndNorm = defineMethod<'weight', object, Dense>({
  name: 'embedAndNorm',
  family: 'selective',
  paper: 'arXiv:2309.12307',
  at: 'weight',
  defaults: { where: /(^|\.)(embed\.weight|norm\d?\.(weight|bias))$/ },
  init: (site) => ({ train: dense(site) }),
  ...change,
});

/** Defaults r = 8, α = 16 as in the authors' code. Count: r(in + out) at each of q, k, v, o, then Vd and the norms. */
export const longlora = ({
  rank = 8,
  alpha = 16,
  dropout = 0,
  seed = 0,
}: Partial<Record<'rank' | 'alpha' | 'dropout' | 'seed', number>> = {}): Transform =>
  guarded(hybrid('longlora', lora({ rank, alpha, dropout, seed, where: ['q', 'k', 'v', 'o'] }), embedAndNorm({ seed })), (model: Model) => {
    if (![...layers(model)].some(({ layer }) => layer.kind === 'branch' && (layer.fields.rope ?? null) !== null))
      throw new Error(
        'longlora: this model has no rotary positions, so its context cannot be extended by interpolation; use a model with rope, or lora() and embedAndNorm() alone',
      );
  });
