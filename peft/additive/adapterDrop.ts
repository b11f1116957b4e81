// AdapterDrop: no adapters in the first n blocks, so that tasks share those blocks and backward need not reach them.
//   specialised: n is fixed, in training too;  robust: n ~ U{0, …, L − 1}, drawn anew in every step, and then any n will do
// Rücklé et al. 2021, arXiv 2010.11918. Pruning of fused adapters, §5: those of the lowest mean α go, place by place.
import type { Engine } from '../../core/engine.ts';
import { floor, gt, min, where } from '../../core/ops/map.ts';
import { within } from '../../core/scope.ts';
import type { Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { type AnyLayer, BASE, type Batch, layer, type Model, ofKind } from '../../nn/layer.ts';
import { layers, rewrite } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { blockNumber, sitesOf } from '../site.ts';
import { type AdapterFusionConfig, type Fusion, fusionAttention, fusionOver } from './adapterFusion.ts';
import { reading } from './pfeiffer.ts';

/** The model without what methods attached to residual branches in its first n blocks. Specialised training attaches it there in no step: `where: fromBlock(n, 'mlp')`. */
export function dropFirst(model: Model, n: number): Model {
  const total = sitesOf(model, 'block').length;
  if (!Number.isInteger(n) || n < 0 || n > total)
    throw new RangeError(`dropFirst: n ${n} must be a whole number from 0 to ${total}, the blocks of this model`);
  const below = (l: AnyLayer): AnyLayer => (l.attached === null ? l : below(l.attached.under));
  return rewrite(model, (l, path) => (l.kind === 'branch' && l.attached !== null && (blockNumber(path) ?? n) < n ? below(l) : null));
}

/**
 * Robust AdapterDrop, put on top of adapters: `compose(pfeiffer(), adapterDrop({ where: 'mlp' }))`. In training the branch answers with or
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

/** Mean α of each fused adapter over the real tokens of some batches, by place. */
export async function fusionUse(model: Model, batches: readonly Batch[], engine: Engine): Promise<ReadonlyMap<string, readonly number[]>> {
  const sums = new Map<string, number[]>();
  let tokens = 0;
  for (const batch of batches) {
    const seen = new Map<string, Tensor>();
    const mask = batch.keyMask ?? null;
    const listening = rewrite(model, (l, path) => {
      if (l.attached?.method !== 'adapterFusion') return null;
      const [call, p] = [ofKind(l, 'branch'), l.fields[l.attached.field] as unknown as Fusion]; // a seam: adapterFusion's own tensors
      const c = l.attached.application.config as AdapterFusionConfig;
      return layer('branch', { [BASE]: call }, () => (x, ctx) => {
        const alpha = fusionAttention(p, reading(ofKind(l.fields[BASE], 'branch')(x, ctx), ctx, 'adapterFusion', path), c); // [B, T, N]
        const t = batch.ids.shape[1]!;
        const text = alpha.slice(1, alpha.shape[1]! - t); // without prompts in front
        seen.set(path, (mask === null ? text : text.mul(mask.reshape(-1, t, 1))).sum([0, 1]));
        return call(x, ctx);
      });
    });
    listening(batch, context(batch.ids.shape[1]!));
    for (const [path, sum] of seen) {
      const now = Array.from(await engine.read(sum));
      sums.set(
        path,
        now.map((v, n) => v + (sums.get(path)?.[n] ?? 0)),
      );
    }
    tokens += mask === null ? batch.ids.shape.reduce((a, b) => a * b) : await engine.item(mask.sum());
  }
  if (sums.size === 0) throw new Error('fusionUse: this model has no AdapterFusion (or there were no batches); attach fused(models) first');
  return new Map([...sums].map(([path, s]) => [path, s.map((v) => v / tokens)]));
}

/** The fused model with the `keep` most used adapters at each place. `use` comes from `fusionUse`. */
export function pruneFused(model: Model, use: ReadonlyMap<string, readonly number[]>, keep: number): Model {
  const places = [...layers(model)].filter(({ layer: l }) => l.attached?.method === 'adapterFusion');
  const bare = rewrite(model, (l) => (l.attached?.method === 'adapterFusion' ? ofKind(l.fields[BASE], 'branch') : null));
  return places.reduce((m, { path, layer: l }) => {
    const c = l.attached!.application.config as AdapterFusionConfig;
    const p = l.fields[l.attached!.field] as unknown as Fusion;
    const alpha = use.get(path);
    if (alpha === undefined || !Number.isInteger(keep) || keep < 1 || keep > alpha.length)
      throw new RangeError(
        `pruneFused: cannot keep ${keep} of the ${alpha?.length ?? 'unknown'} adapters at ${path}; keep at least 1, and pass what fusionUse answered`,
      );
    const order = [...alpha.keys()].sort((a, b) => alpha[b]! - alpha[a]! || a - b);
    const kept = order.slice(0, keep).sort((a, b) => a - b);
    const some = (all: readonly Tensor[]): Tensor[] => kept.map((n) => all[n]!);
    const known = { ...p, down: some(p.down), downBias: some(p.downBias), up: some(p.up), upBias: some(p.upBias) };
    return fusionOver(new Map([[path, known]]))({ ...c, adapters: kept.map((n) => c.adapters[n]!), where: path })(m);
  }, bare);
}
