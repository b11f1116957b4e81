// XPrompt: a prompt of which only the rows, and of the rows only the pieces, that matter are left, trained again from where they were.
//   P̂ = M ⊙ P;   importance of a row or piece: E_x |∂L/∂γ| at γ = 1, γ multiplying it, which is |⟨p, ∂L/∂p̂⟩|
// Ma et al. 2022, arXiv 2210.04457, §3. The three stages are `xpromptStages`; attached by itself it is prompt tuning with nothing pruned.
import type { Engine } from '../../core/engine.ts';
import { grad } from '../../core/grad.ts';
import { broadcastTo, reshape } from '../../core/ops/move.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import type { Field, Fields, Model } from '../../nn/layer.ts';
import { rewrite } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { between, lengthFits, wholeNumber } from '../check.ts';
import { largest } from '../select.ts';
import { promptInFront } from './promptTuning.ts';

export interface XpromptConfig {
  readonly length: number; // p
  readonly pieces: number; // k, into which a row is cut
}
/** mask [p, k], fixed: 0 for pieces that are gone. Finished, P̂ alone. */
type Xprompt = { readonly P: Tensor; readonly mask?: Tensor };

/** M ⊙ P, each entry of the mask for d/k neighbours. */
function pruned({ P, mask }: Xprompt): Tensor {
  if (mask === undefined) return P;
  const [[p, d], k] = [P.shape as readonly [number, number], mask.shape[1]!];
  return P.mul(reshape(broadcastTo(reshape(mask, [p, k, 1]), [p, k, d / k]), [p, d]));
}

/**
 * Pruned entries are 0 in the prompt and get no gradient. Count: p·d trained (of which the kept pieces have gradients), p·d stored: P̂, of
 * which the kept pieces are not zero.
 */
export const xprompt = defineMethod<'trunk', XpromptConfig, Xprompt>({
  name: 'xprompt',
  family: 'additive',
  paper: 'arXiv:2210.04457',
  at: 'trunk',
  defaults: { length: 20, pieces: 16, where: 'trunk' },
  check: (site, { length, pieces }) => {
    lengthFits('xprompt', site, length);
    for (const [name, n] of [
      ['length', length],
      ['pieces', pieces],
    ] as const)
      wholeNumber('xprompt', name, n);
    if (site.dim('width') % pieces)
      throw new RangeError(`xprompt: a row of ${site.dim('width')} at ${site.path} does not cut into ${pieces} equal pieces`);
  },
  init: (site, { length: p, pieces: k }, r) => ({
    train: { P: param(r.normal(p * site.dim('width')), [p, site.dim('width')]) },
    fixed: { mask: leaf(new Float32Array(p * k).fill(1), [p, k]) },
  }),
  around: (call, t) => promptInFront(call, pruned(t)),
  finish: (t) => ({ P: pruned(t) }),
  count: (sites, { length }) => {
    const train = sites.reduce((n, s) => n + length * s.dim('width'), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});

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
