// The three stages of XPrompt: prompt tuning; rows, then pieces of rows, pruned by importance; and training again from the first stage's values.
import type { Engine } from '../../core/engine.ts';
import { grad } from '../../core/grad.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import type { Field, Fields, Model } from '../../nn/layer.ts';
import { rewrite } from '../../nn/tree.ts';
import { between } from '../check.ts';
import { largest } from '../select.ts';

/** The masks of a model's XPrompts, by path. */
const masksOf = (model: Model): Map<string, Tensor> => {
  const found = new Map<string, Tensor>();
  withMasks(model, (mask, path) => {
    found.set(path, mask);
    return mask;
  });
  return found;
};
/** The model with other masks in its XPrompts; prompts stay as they are. */
const withMasks = (model: Model, change: (mask: Tensor, path: string) => Tensor): Model =>
  rewrite(model, (l, path) => {
    const own: Field | undefined = l.attached?.method === 'xprompt' ? l.fields[l.attached.field] : undefined;
    const mask = (own as Fields | undefined)?.mask;
    if (l.attached === null || mask === undefined) return null;
    return l.with({ ...l.fields, [l.attached.field]: { ...(own as Fields), mask: change(mask as Tensor, path) } });
  });

/** E |∂L/∂γ| of every piece, or of every row: [p·k] or [p], by path. `losses` are recipes of a model, one for each x. */
export async function importance(
  model: Model,
  losses: readonly ((m: Model) => Tensor)[],
  what: 'rows' | 'pieces',
  engine: Engine,
): Promise<Map<string, Float64Array>> {
  const gates = new Map(
    [...masksOf(model)].map(([path, m]) => [
      path,
      leaf(
        new Float32Array(what === 'rows' ? m.shape[0]! : m.shape[0]! * m.shape[1]!).fill(1),
        what === 'rows' ? [m.shape[0]!, 1] : m.shape,
      ),
    ]),
  );
  const gated = withMasks(model, (mask, path) => mask.mul(gates.get(path)!));
  const scores = new Map([...gates].map(([path, g]) => [path, new Float64Array(g.shape[0]! * g.shape[1]!)]));
  for (const loss of losses)
    for (const [k, d] of grad(loss(gated), [...gates.values()]).entries()) {
      const sum = scores.get([...gates.keys()][k]!)!;
      for (const [i, v] of (await engine.read(d)).entries()) sum[i]! += Math.abs(v) / losses.length;
    }
  return scores;
}

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
