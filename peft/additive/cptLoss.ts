// CPT's loss: what the text's answers cost, and what the examples' own answers cost as read before it.
//   L = mean over all answer tokens of w·(−log p(token)),   w = 1 for the text's, γ^j for those of the j-th example from the end
// Blau et al. 2024, arXiv 2410.17222, §3, as computed in PEFT: the mean is over tokens, whatever they weigh.
import { nll } from '../../core/ops/fused.ts';
import { max, ne } from '../../core/ops/map.ts';
import { broadcastTo, concat } from '../../core/ops/move.ts';
import { ShapeError } from '../../core/shape.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import { type AnyLayer, BASE, type Batch, layer, type Model, ofKind } from '../../nn/layer.ts';
import { rewrite } from '../../nn/tree.ts';
import { type CptConfig, isAnswer } from './cpt.ts';
import { promptAndText } from './promptRows.ts';

/**
 * A trainer's loss for a language model with `cpt` on it. `targets` [B, T] as for `nextToken`: the token after each, −100 where it is not
 * part of the answer. γ = 1 weighs all examples alike. What the examples' last token says of the text's first is not asked.
 */
export const cptLoss =
  (decay = 1) =>
  (model: Model, { ids, keyMask = null, targets }: Batch & { readonly targets: Tensor }, ctx: Context): Tensor => {
    const found: CptConfig[] = [];
    const whole = rewrite(model, (l) => {
      if (l.attached?.method !== 'cpt') return null;
      found.push(l.attached.application.config as CptConfig); // a seam: cpt's own configuration
      const { P, delta } = l.fields[l.attached.field] as { readonly P: Tensor; readonly delta: Tensor };
      const inner: AnyLayer = ofKind(l.fields[BASE], 'trunk');
      return layer('trunk', { [BASE]: inner }, (f) => promptAndText(ofKind(f[BASE], 'trunk'), P.add(delta)));
    });
    const [config, ...more] = found;
    if (config === undefined || more.length > 0)
      throw new Error(
        `cptLoss: this model has ${found.length === 0 ? 'no cpt on it; attach cpt({ … }) first' : 'more than one cpt on it; attach one'}`,
      );
    const { ids: examples, types } = config;
    const logits = whole({ ids, keyMask }, ctx); // [B, p + T, V]
    const [b, p, t] = [ids.shape[0]!, examples.length, ids.shape[1]!];
    if (logits.shape[1] !== p + t)
      throw new ShapeError(
        `cptLoss: ${t} tokens after ${p} of examples gave logits for ${logits.shape[1]}; another method hides those of the examples`,
      );
    const answers = [...new Set(types.filter(isAnswer))].sort((x, y) => y - x); // the last example first
    const next = types.map((_, i) => (i + 1 < p && isAnswer(types[i + 1]!) ? examples[i + 1]! : -100));
    const weight = types.map((_, i) => (next[i] === -100 ? 0 : decay ** (answers.indexOf(types[i + 1]!) + 1)));
    const front = (values: readonly number[], rest: Tensor): Tensor => concat([broadcastTo(leaf(values, [1, p]), [b, p]), rest], 1);
    const wanted = front(next, targets); // [B, p + T]
    const known = ne(wanted, -100);
    return nll(logits, wanted)
      .mul(front(weight, ne(targets, -100)))
      .sum()
      .div(max(known.sum(), 1));
  };
