// XPrompt: a prompt of which only the rows, and of the rows only the pieces, that matter are left, trained again from where they were.
//   P̂ = M ⊙ P;   importance of a row or piece: E_x |∂L/∂γ| at γ = 1, γ multiplying it, which is |⟨p, ∂L/∂p̂⟩|
// Ma et al. 2022, arXiv 2210.04457, §3. Attached by itself it is prompt tuning with nothing pruned; xpromptStages.ts prunes.
import { broadcastTo, reshape } from '../../core/ops/move.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { lengthFits, wholeNumber } from '../check.ts';
import { promptInFront } from './promptRows.ts';

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
 * Defaults are the paper's: 20 rows of 16 pieces. It starts from sampled vocabulary, trains at 0.3, keeps 10 … 90 % of rows and of pieces,
 * whichever is best on validation data, and trains once more.
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
