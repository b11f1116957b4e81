// AdapterSoup: the mean of several trained adapters' tensors. Nothing is trained, and it costs what one adapter does.
//   θ = Σ_k w_k θ_k,   w_k = 1/l for the l chosen adapters
// Chronopoulou et al. 2023, arXiv 2302.07027, §2.1. Which adapters: those of the domains nearest to a new one (soupDomains.ts).
import { same, show, size } from '../../core/shape.ts';
import { leaf, paramOf, stateOf, type Tensor } from '../../core/tensor.ts';
import type { Model } from '../../nn/layer.ts';
import { layers, mapTensors, tensors } from '../../nn/tree.ts';
import { atHand } from '../site.ts';

/**
 * The first model with each tensor that its methods brought replaced by the weighted mean over all models (equal weights by default).
 * All must have the same methods on the same base. The mean of adapters is not the mean of their answers: they are not linear.
 */
export function adapterSoup(models: readonly Model[], weights: readonly number[] = models.map(() => 1 / models.length)): Model {
  const [first, ...others] = models;
  if (first === undefined) throw new RangeError('adapterSoup: there is nothing to average; give at least one model');
  if (weights.length !== models.length || weights.some((w) => !Number.isFinite(w)))
    throw new RangeError(`adapterSoup: ${models.length} models need as many numbers as weights, got [${weights}]`);
  const tables = others.map((m) => new Map([...tensors(m)].map(({ path, tensor }) => [path, tensor])));
  const own = [...layers(first)].flatMap(({ path, layer: l }) =>
    l.attached === null ? [] : [`${path === '' ? '' : `${path}.`}${l.attached.field}.`],
  );
  if (own.length === 0) throw new Error('adapterSoup: no method is attached to the first model, so there is nothing to average');
  const made = new Map<Tensor, Tensor>(); // a tensor that several places share stays shared
  return mapTensors(first, (t, path) => {
    if (made.has(t)) return made.get(t)!;
    const mine = own.some((o) => path.startsWith(o));
    const all = [t, ...tables.map((table, k) => table.get(path) ?? refuse(k + 1, `has no ${path}`))];
    const odd = all.findIndex((o) => !same(o.shape, t.shape) || (!mine && atHand(o) !== atHand(t)));
    if (odd >= 0)
      refuse(
        odd,
        same(all[odd]!.shape, t.shape)
          ? `has another base: its ${path} differs`
          : `has ${path} of shape ${show(all[odd]!.shape)}, not ${show(t.shape)}`,
      );
    if (!mine) return t;
    const numbers = all.map((o, k) => atHand(o) ?? refuse(k, `has ${path} as a recipe; realize it first`));
    const value = Float64Array.from({ length: size(t.shape) }, (_, i) => numbers.reduce((s, n, k) => s + weights[k]! * n[i]!, 0));
    const data = numbers.every((n) => n instanceof Float64Array) ? value : Float32Array.from(value);
    const p = paramOf(t);
    made.set(t, p === null ? leaf(data, t.shape) : stateOf({ ...p, value: data }));
    return made.get(t)!;
  });
}
const refuse = (k: number, what: string): never => {
  throw new Error(
    `adapterSoup: model ${k} ${what}; the models of a soup have the same methods, with the same sizes, on the same frozen base`,
  );
};
