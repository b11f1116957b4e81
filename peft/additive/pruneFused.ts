// AdapterDrop for AdapterFusion: of the fused adapters those with the lowest mean α are left out, at each place its own.
// Rücklé et al. 2021, arXiv 2010.11918, §5.
import type { Engine } from '../../core/engine.ts';
import type { Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { BASE, type Batch, layer, type Model, ofKind } from '../../nn/layer.ts';
import { layers, rewrite } from '../../nn/tree.ts';
import { fusionOver } from './adapterFusion.ts';
import { type AdapterFusionConfig, type Fusion, fusionAttention } from './fusionAttention.ts';
import { reading } from './pfeiffer.ts';

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
      return layer('branch', { [BASE]: call }, ({ [BASE]: call }) => (x, ctx) => {
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
