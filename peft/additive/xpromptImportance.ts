// What a row of XPrompt's prompt, or a piece of one, is worth: the mean size of the loss's gradient at a gate of 1 on it.
//   importance = E |∂L/∂γ|   (γ multiplies the row or the piece)
// Ma et al. 2022, arXiv 2210.04457, §3.
import type { Engine } from '../../core/engine.ts';
import { grad } from '../../core/grad.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import type { Field, Fields, Model } from '../../nn/layer.ts';
import { rewrite } from '../../nn/tree.ts';

/** The masks of a model's XPrompts, by path. */
export const masksOf = (model: Model): Map<string, Tensor> => {
  const found = new Map<string, Tensor>();
  withMasks(model, (mask, path) => {
    found.set(path, mask);
    return mask;
  });
  return found;
};

/** The model with other masks in its XPrompts; prompts stay as they are. */
export const withMasks = (model: Model, change: (mask: Tensor, path: string) => Tensor): Model =>
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
