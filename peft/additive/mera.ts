// MerA: several trained adapters as one. Their hidden units are brought into one order first, for a mean of unlike units is neither.
//   W_down ← T W_down,  b_down ← T b_down,  W_up ← W_up Tᵀ,   T = argmin Σ T_ij C_ij over transport plans;   then the mean over all adapters
//   C_ij = ‖unit i of the first − unit j of another‖², of incoming weights and bias, or of what the units compute for some texts
// He et al. 2023, arXiv 2308.15982. Equal weights on both sides make T a permutation (Birkhoff), found exactly here.
import { paramOf, stateOf, type Tensor } from '../../core/tensor.ts';
import type { Model } from '../../nn/layer.ts';
import { mapTensors } from '../../nn/tree.ts';
import { assignment } from '../assignment.ts';
import { adapterSoup } from './adapterSoup.ts';
import { bottlenecks, byWeights, numbers, type Rows, rowsOf } from './meraUnits.ts';

/**
 * The first model with its adapters replaced by the mean of all, units matched. `units` says what units are matched by: incoming weights,
 * or `unitActivations` of each model for the same texts. The paper's transport is over weights or activations; that units and the alignment
 * to the first are as in its source (Singh and Jaggi 2020, 1910.05653) is our reading: its own code could not be seen. For adapters of
 * one track of tasks. As `adapterSoup` it needs the same methods, sizes and base in all, and costs what one adapter does.
 */
export function mera(models: readonly Model[], units: readonly ReadonlyMap<string, Rows>[] = models.map(byWeights)): Model {
  const [first, ...others] = models;
  if (first === undefined || units.length !== models.length)
    throw new RangeError(`mera: ${models.length} models need as many tables of units, got ${units.length}`);
  if (units[0]!.size === 0)
    throw new Error('mera: the first model has no bottleneck adapter (houlsby, pfeiffer, parallelAdapter, …) to merge');
  const aligned = others.map((model, k) => {
    const moved = new Map<Tensor, Tensor>();
    for (const [path, b] of bottlenecks(model)) {
      const [to, from] = [units[0]!.get(path), units[k + 1]!.get(path)];
      if (to === undefined || from === undefined || to.length !== from.length)
        throw new Error(`mera: model ${k + 1} and the first differ at ${path}; merge adapters of the same methods and sizes`);
      const order = assignment(to.map((a) => from.map((c) => a.reduce((n, x, i) => n + (x - c[i]!) ** 2, 0))));
      const reordered = (t: Tensor, rows: boolean): Tensor => {
        const table = rowsOf(numbers(t, path), rows ? (t.shape[1] ?? 1) : t.shape[1]!);
        const data = Float64Array.from(rows ? order.flatMap((j) => table[j]!) : table.flatMap((row) => order.map((j) => row[j]!)));
        return stateOf({ ...paramOf(t)!, value: data });
      };
      moved.set(b.down, reordered(b.down, true)).set(b.downBias, reordered(b.downBias, true)).set(b.up, reordered(b.up, false));
    }
    return mapTensors(model, (t) => moved.get(t) ?? t);
  });
  return adapterSoup([first, ...aligned]);
}
