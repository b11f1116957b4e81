// The three stages of XPrompt: prompt tuning; rows, then pieces of rows, pruned by importance; and training again from the first stage's values.
import type { Engine } from '../../core/engine.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import type { Model } from '../../nn/layer.ts';
import { between } from '../check.ts';
import { largest } from '../select.ts';
import { importance, masksOf, withMasks } from './xpromptImportance.ts';

export interface XpromptStages {
  readonly engine: Engine;
  /** Trains what is trainable: a few lines around the trainer. */
  readonly train: (model: Model) => Promise<Model>;
  /** The loss of one text (or batch) each; what importance is a mean over. */
  readonly losses: readonly ((m: Model) => Tensor)[];
  readonly keepRows: number; // share of the rows kept
  readonly keepPieces: number; // share kept of the pieces of those rows
}

/**
 * Prompt tuning; rows, then pieces of the rows that are left, pruned by importance; and training again from the values of the first
 * stage, on the mask. Give it a model with `xprompt` just attached.
 */
export async function xpromptStages(model: Model, s: XpromptStages): Promise<Model> {
  for (const name of ['keepRows', 'keepPieces'] as const) between('xprompt', name, s[name], Number.MIN_VALUE, 1, true);
  if (masksOf(model).size === 0) throw new Error('xpromptStages: this model has no xprompt on it; attach xprompt({ … }) first');
  const tuned = await s.train(model);
  const keep = async (m: Model, what: 'rows' | 'pieces', share: number): Promise<Model> => {
    const scores = await importance(m, s.losses, what, s.engine);
    return withMasks(m, (mask, path) => {
      const now = mask.source.kind === 'leaf' ? mask.source.data : null;
      if (now === null) throw new Error(`xpromptStages: the mask at ${path} is not numbers; it must be as xprompt attached it`);
      const [own, k] = [scores.get(path)!, mask.shape[1]!];
      const each = what === 'rows' ? k : 1; // entries of the mask per score
      const live = own.map((v, i) => (now[i * each] === 0 ? -1 : v)); // what is gone does not come back
      const wanted = Math.max(1, Math.round(share * live.filter((v) => v >= 0).length));
      const kept = new Set(largest([live], wanted)[0]!);
      return leaf(
        Float32Array.from(now, (v, i) => (kept.has(Math.floor(i / each)) ? v : 0)),
        mask.shape,
      );
    });
  };
  return s.train(await keep(await keep(tuned, 'rows', s.keepRows), 'pieces', s.keepPieces));
}
