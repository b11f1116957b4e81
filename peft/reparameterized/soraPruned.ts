// After SoRA: the ranks whose gates are open, as an ordinary LoRA.
// Ding et al. 2023, arXiv 2311.11696.
import { param } from '../../core/tensor.ts';
import type { Model } from '../../nn/layer.ts';
import { layers, rewrite } from '../../nn/tree.ts';
import { atHand } from '../site.ts';
import { type Factors, scaling } from './lora.ts';
import type { Sora, SoraConfig } from './sora.ts';
import { withFactors } from './withFactors.ts';

/**
 * A model with SoRA as the same model with LoRA of the ranks whose gates are open, the gates folded into A; a site without an open gate
 * is left bare. The factors are numbers to train on or to save. Throws where there is no SoRA, or its numbers are recipes.
 */
export function pruned(model: Model): Model {
  const byRank = new Map<string, { at: Map<string, Factors>; c: SoraConfig; rank: number }>();
  for (const { path, layer } of layers(model)) {
    if (layer.attached?.method !== 'sora') continue;
    const own = layer.fields[layer.attached.field] as Sora; // a seam: a layer does not know its method's types
    const c = layer.attached.application.config as SoraConfig;
    const [a, b, g] = [own.A, own.B, own.g].map(atHand);
    if (!a || !b || !g) throw new Error(`pruned: the factors of ${path} are recipes; await realize(model, engine) first`);
    const open = [...g.keys()].filter((j) => g[j] !== 0);
    const [into, out, rank] = [own.A.shape[1]!, own.B.shape[0]!, open.length];
    const key = `${rank} ${scaling(c)} ${c.dropout}`;
    const group = byRank.get(key) ?? { at: new Map<string, Factors>(), c, rank };
    byRank.set(key, group);
    if (rank > 0)
      group.at.set(path, {
        A: param(
          Float64Array.from(
            { length: rank * into },
            (_, k) => a[open[Math.floor(k / into)]! * into + (k % into)]! * g[open[Math.floor(k / into)]!]!,
          ),
          [rank, into],
        ),
        B: param(
          Float64Array.from({ length: out * rank }, (_, k) => b[Math.floor(k / rank) * g.length + open[k % rank]!]!),
          [out, rank],
        ),
      });
  }
  if (byRank.size === 0) throw new Error('pruned: no layer of this model has SoRA attached');
  const plain = rewrite(model, (l) => (l.attached?.method === 'sora' ? l.attached.under : null));
  return [...byRank.values()].reduce(
    (m, { at, c, rank }) => (at.size === 0 ? m : withFactors(m, at, { rank, alpha: scaling(c) * rank, dropout: c.dropout })),
    plain,
  );
}
