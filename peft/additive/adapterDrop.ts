// AdapterDrop: no adapters in the first n blocks, so that tasks share those blocks and backward need not reach them.
//   specialised: n is fixed, in training too;  robust: n ~ U{0, …, L − 1}, drawn anew in every step, and then any n will do
// Rücklé et al. 2021, arXiv 2010.11918. Pruning of fused adapters: pruneFused.ts.
import { floor, gt, min, where } from '../../core/ops/map.ts';
import { within } from '../../core/scope.ts';
import { type AnyLayer, BASE, type Model, ofKind } from '../../nn/layer.ts';
import { rewrite } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { blockNumber, sitesOf } from '../site.ts';

/** The model without what methods attached to residual branches in its first n blocks. Specialised training attaches it there in no step: `where: fromBlock(n, 'mlp')`. */
export function dropFirst(model: Model, n: number): Model {
  const total = sitesOf(model, 'block').length;
  if (!Number.isInteger(n) || n < 0 || n > total)
    throw new RangeError(`dropFirst: n ${n} must be a whole number from 0 to ${total}, the blocks of this model`);
  const below = (l: AnyLayer): AnyLayer => (l.attached === null ? l : below(l.attached.under));
  return rewrite(model, (l, path) => (l.kind === 'branch' && l.attached !== null && (blockNumber(path) ?? n) < n ? below(l) : null));
}

/**
 * Robust AdapterDrop, put on top of adapters: `stack(pfeiffer(), adapterDrop({ where: 'mlp' }))`. In training the branch answers with or
 * without the method attached last to it; one draw is for all blocks. In evaluation nothing is dropped; `dropFirst(model, n)` is the model
 * for any n. It brings no tensors. A dropped adapter gets a zero gradient, which is still computed: the saving is in specialised training.
 */
export const adapterDrop = defineMethod<'branch', object, Record<string, never>>({
  name: 'adapterDrop',
  family: 'additive',
  paper: 'arXiv:2010.11918',
  at: 'branch',
  defaults: { where: ['attn', 'mlp'] },
  check: ({ root }) => {
    if (!sitesOf(root, 'branch').some((s) => s.layer.attached !== null))
      throw new Error('adapterDrop: no branch of this model has an adapter that could be dropped; attach adapters first');
  },
  init: () => ({ train: {} }),
  around: (call, _, __, site) => {
    if (call.attached === null || site.block === null) return call;
    const without = ofKind(call.fields[BASE], 'branch');
    const blocks = sitesOf(site.root, 'block').length;
    const block = site.block;
    return (x, ctx) => {
      const u = within({ path: '' }, () => ctx.draw.uniform(site.field, [1])); // a name without a path: the same number everywhere
      if (u === null) return call(x, ctx);
      const n = min(floor(u.mul(blocks)), blocks - 1); // u may round up to 1
      return where(gt(n, block), without(x, ctx), call(x, ctx));
    };
  },
  count: () => ({ train: 0, stored: 0 }),
  startsAsBase: () => 'bitwise', // evaluated, it is what is beneath
});
