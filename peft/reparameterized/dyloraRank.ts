// After DyLoRA: the trained model cut to one rank, as an ordinary LoRA.
// Valipour et al. 2022, arXiv 2210.07558, §4.
import type { Model } from '../../nn/layer.ts';
import { layers, rewrite } from '../../nn/tree.ts';
import { between, wholeNumber } from '../check.ts';
import { cut, type DyloraConfig } from './dylora.ts';
import type { Factors } from './lora.ts';
import { withFactors } from './withFactors.ts';

/** A model with DyLoRA as the same model with LoRA of rank b, scaled by α/b. The factors are recipes until `realize`. Throws where there is no DyLoRA of that rank. */
export function atRank(model: Model, b: number): Model {
  const at = new Map<string, Factors>();
  let alpha = 0;
  for (const { path, layer } of layers(model)) {
    if (layer.attached?.method !== 'dylora') continue;
    const c = layer.attached.application.config as DyloraConfig; // a seam: a layer does not know its method's types
    wholeNumber('atRank', 'b', b);
    between('atRank', 'b', b, 1, c.rank, true);
    at.set(path, cut(layer.fields[layer.attached.field] as Factors, b));
    alpha = c.alpha;
  }
  if (at.size === 0) throw new Error('atRank: no layer of this model has DyLoRA attached');
  return withFactors(
    rewrite(model, (l) => (l.attached?.method === 'dylora' ? l.attached.under : null)),
    at,
    { rank: b, alpha },
  );
}
