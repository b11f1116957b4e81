// Methods folded into plain weights, and trained attachments replaced by smaller equivalents.
import { within } from '../core/scope.ts';
import type { Tensor } from '../core/tensor.ts';
import { type AnyLayer, BASE, type Layer, type Model, ofKind } from '../nn/layer.ts';
import { weight } from '../nn/linear.ts';
import { layers, rewrite } from '../nn/tree.ts';
import { affineParts, affineWeight } from '../quant/affine.ts';
import { bare, effective } from './site.ts';

/**
 * A model without attachments that computes the same: every attached method folded into the weight beneath it. The weights
 * are recipes; `await realize(merge(model), engine)` turns them into numbers. The old model is the unmerge, bit for bit. A packed weight
 * is unpacked by that, except where a method folds into its zero points alone (QA-LoRA): there it stays packed, codes and all.
 * Throws, naming the method, where one cannot be folded.
 */
export function merge(model: Model): Model {
  for (const { path, layer } of layers(model))
    if (layer.attached !== null && layer.attached.fold === null)
      throw new Error(
        `merge: ${layer.attached.method} at ${path === '' ? 'the model' : path} is not a change of weights, so it cannot be merged; keep it attached (it still saves and loads)`,
      );
  return rewrite(model, (l, path) => {
    if (l.attached === null) return null;
    const { weight: w, bias } = within({ path }, () => effective(l, path));
    const plain = bare(l);
    if (plain.kind === 'weight') return packedOr(w);
    return plain.with({ ...plain.fields, weight: packedOr(w), bias: bias === null ? null : weight(bias) });
  });
}
/** A weight that is nothing but unpacked codes, as codes. */
function packedOr(w: Tensor): Layer<'weight'> {
  const parts = affineParts(w);
  return parts === null ? weight(w) : affineWeight(parts, parts);
}

/** Every attachment replaced by its smaller equivalent, where its method has one (a prefix without its MLP). */
export const finish = (model: Model): Model =>
  rewrite(model, function smaller(l) {
    if (l.attached === null) return null;
    const own = l.attached.finish?.() ?? l.fields[l.attached.field]!;
    return l.with({ [BASE]: rewrite(ofKind(l.fields[BASE], l.kind), smaller), [l.attached.field]: own });
  });

/** The model as it was before any method. */
export const detach = (model: Model): Model =>
  rewrite(model, function off(l) {
    return l.attached === null ? null : rewrite(withoutMethods(l), off);
  });
const withoutMethods = (l: AnyLayer): AnyLayer => (l.attached === null ? l : withoutMethods(l.attached.under));
