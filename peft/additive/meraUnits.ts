// What the hidden units of adapters are matched by in MerA (mera.ts): their incoming weights, or what they compute for some texts.
import type { Engine } from '../../core/engine.ts';
import { type Tensor, topological } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import { type Batch, type Field, isRecord, type Model } from '../../nn/layer.ts';
import { join, layers } from '../../nn/tree.ts';
import { atHand } from '../site.ts';
import type { Bottleneck } from './bottleneck.ts';

export type Rows = readonly (readonly number[])[];

/** The bottlenecks of a model by path, whichever method brought them. */
export const bottlenecks = (model: Model): Map<string, Bottleneck> =>
  new Map(
    [...layers(model)].flatMap(({ path, layer: l }): [string, Bottleneck][] => {
      const own: Field | undefined = l.attached === null ? undefined : l.fields[l.attached.field];
      return isRecord(own) && ['down', 'downBias', 'up', 'upBias'].every((k) => own[k] !== undefined && !Array.isArray(own[k]))
        ? [[join(path, l.attached!.field), own as unknown as Bottleneck]]
        : [];
    }),
  );

export const numbers = (t: Tensor, path: string): number[] => {
  const found = atHand(t);
  if (found === null) throw new Error(`mera: ${path} is a recipe; realize the model first`);
  return Array.from(found);
};
export const rowsOf = (flat: ArrayLike<number>, cols: number): number[][] =>
  Array.from({ length: flat.length / cols }, (_, r) => Array.from({ length: cols }, (_, c) => flat[r * cols + c]!));

/** Of each hidden unit, by place: incoming weights and bias. */
export const byWeights = (model: Model): Map<string, Rows> =>
  new Map(
    [...bottlenecks(model)].map(([path, { down, downBias }]) => {
      const bias = numbers(downBias, path);
      return [path, rowsOf(numbers(down, path), down.shape[1]!).map((row, i) => [...row, bias[i]!])];
    }),
  );

/** Of each hidden unit, by place: what it computes, before its activation, for the real tokens of a batch. */
export async function unitActivations(model: Model, batch: Batch, ctx: Context, engine: Engine): Promise<Map<string, Rows>> {
  const graph = topological([model(batch, ctx)]);
  const real = batch.keyMask == null ? null : (await engine.read(batch.keyMask)).slice();
  const found = new Map<string, Rows>();
  for (const [path, { downBias }] of bottlenecks(model)) {
    const at = graph.find((t) => t.source.kind === 'apply' && t.source.op.name === 'add' && t.source.ins.includes(downBias));
    if (at === undefined) throw new Error(`mera: ${path} is not computed for this batch`);
    const tokens = rowsOf(await engine.read(at), downBias.shape[0]!).filter((_, k) => real === null || real[k] !== 0);
    found.set(
      path,
      tokens[0]!.map((_, unit) => tokens.map((row) => row[unit]!)),
    );
  }
  return found;
}
