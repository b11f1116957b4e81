// LT-SFT, lottery-ticket sparse fine-tuning: the entries that full fine-tuning moves most are trained, from the start, alone.
//   phase 1: θ₀ → θ₁ by full fine-tuning;   mask: the k largest |θ₁ − θ₀|;   phase 2: from θ₀ again, only the mask is trained
//   composition: θ = θ₀ + φ_language + φ_task, each difference φ trained on its own
// Ansell et al. 2022, arXiv 2110.07560, §3. A head that is trained densely stands outside: `unfreeze` it.
import { sparseAdd } from '../../core/ops/sparse.ts';
import type { Tensor } from '../../core/tensor.ts';
import { type Layer, type Model, ofKind } from '../../nn/layer.ts';
import { weight } from '../../nn/linear.ts';
import { layers, substitute } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { drift } from './priming.ts';
import { budget, type Chosen, type ChosenConfig, choose, type Sparse, sparse } from './sparse.ts';

/**
 * Phase 1 is `prepare(model, { engine, train })`, with any training; phase 2 is training what it attaches. By default 1 % of all weights
 * of the blocks; norms can be left out by `where`. Count: ⌊ρN⌋ − reserved. The authors' several rounds and L1 penalty are left out.
 */
export const ltSft = defineMethod<'weight', ChosenConfig, Sparse, null, Chosen>({
  name: 'ltSft',
  family: 'selective',
  paper: 'arXiv:2110.07560',
  at: 'weight',
  defaults: { density: 0.01, reserved: 0, where: /\bblocks\./ },
  ...sparse('ltSft'),
  prepare: async (sites, c, env) => {
    const k = budget('ltSft', sites, c);
    const moved = await drift('ltSft', sites, env);
    return choose(
      sites,
      moved.map((d) => d.map(Math.abs)),
      k,
    );
  },
});

/**
 * The base with the sparse differences of several models that were trained on it, each with LT-SFT (a language's, a task's). The
 * weights are recipes: `realize` makes numbers of them. Throws where a model has no LT-SFT.
 */
export function withDifferences(base: Model, ...trained: readonly Model[]): Model {
  const found = trained.map((m, k) => {
    const at = new Map<string, Sparse>();
    for (const { path, layer: l } of layers(m)) if (l.attached?.method === 'ltSft') at.set(path, l.fields[l.attached.field] as Sparse); // a seam: a layer does not know its method's types
    if (at.size === 0) throw new Error(`withDifferences: model ${k} has no LT-SFT attached, so there is no difference to add`);
    return at;
  });
  return substitute(base, 'weight', (l, path) => {
    const here = found.flatMap((at) => at.get(path) ?? []);
    return here.length === 0 ? null : added(ofKind(l, 'weight'), here);
  });
}
const added = (l: Layer<'weight'>, differences: readonly Sparse[]): Layer<'weight'> =>
  weight(differences.reduce<Tensor>((w, s) => sparseAdd(w, s, s.values), l()));
