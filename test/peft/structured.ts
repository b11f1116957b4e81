// Dense matrices in plain arithmetic, for second implementations of structured updates; and the sites of a large model, without its numbers.
import type { Engine } from '../../core/engine.ts';
import { context } from '../../nn/context.ts';
import type { Kind, Model } from '../../nn/layer.ts';
import { effective, type Site } from '../../peft/site.ts';
import { affine, apart, flat, layerAt, type Matrix, own, random, rowsOf } from './naive.ts';

export const build = (rows: number, cols: number, f: (i: number, j: number) => number): number[][] =>
  Array.from({ length: rows }, (_, i) => Array.from({ length: cols }, (_, j) => f(i, j)));
export const product = (a: Matrix, b: Matrix): number[][] =>
  build(a.length, b[0]!.length, (i, j) => a[i]!.reduce((s, v, k) => s + v * b[k]![j]!, 0));
export const transpose = (a: Matrix): number[][] => build(a[0]!.length, a.length, (i, j) => a[j]![i]!);
export const eye = (n: number): number[][] => build(n, n, (i, j) => (i === j ? 1 : 0));
export const zip = (a: Matrix, b: Matrix, f: (x: number, y: number) => number): number[][] =>
  a.map((row, i) => row.map((v, j) => f(v, b[i]![j]!)));
/** Gauss–Jordan without pivoting: enough for I + Q with Q skew. */
export function inverse(a: Matrix): number[][] {
  const n = a.length;
  const m = a.map((row, i) => [...row, ...eye(n)[i]!]);
  for (let k = 0; k < n; k++) {
    const p = m[k]![k]!;
    m[k] = m[k]!.map((v) => v / p);
    for (let i = 0; i < n; i++) {
      const f = m[i]![k]!;
      if (i !== k) m[i] = m[i]!.map((v, j) => v - f * m[k]![j]!);
    }
  }
  return m.map((row) => row.slice(n));
}
export function determinant(a: Matrix): number {
  if (a.length === 1) return a[0]![0]!;
  return a[0]!.reduce((s, v, j) => s + (j % 2 ? -v : v) * determinant(a.slice(1).map((row) => row.toSpliced(j, 1))), 0);
}
/** Largest difference of two matrices, relative to the second one's largest entry. */
export const off = (a: Matrix, b: Matrix): number => apart(flat(a), flat(b));

/**
 * How far a linear layer with a method is from y = W'x + b, W' [out, in] made in plain arithmetic from W and the method's tensors by name;
 * and how far its folded weight is from W'.
 */
export async function fromDense(
  engine: Engine,
  model: Model,
  site: string,
  method: string,
  dense: (w: number[][], p: Record<string, number[][]>) => number[][],
): Promise<{ attached: number; folded: number }> {
  const p = await own(engine, model, site);
  const weight = p.weight!;
  const named = Object.fromEntries(
    Object.entries(p).flatMap(([k, v]) => (k.startsWith(`${method}.`) ? [[k.slice(method.length + 1), v]] : [])),
  );
  const changed = dense(weight, named);
  const x = random(7, [3, weight[0]!.length]);
  const layer = layerAt(model, 'linear', site);
  const y = await engine.read(layer(x, context(3)));
  const folded = await engine.read(effective(layer, site).weight);
  return {
    attached: apart(y, flat(affine(rowsOf(await engine.read(x), weight[0]!.length), changed, p.bias?.[0]))),
    folded: apart(folded, flat(changed)),
  };
}

/** q_proj and v_proj of Llama-3.2-3B (28 layers of 3072, 8 key heads of 128), as places without numbers. */
export const llama3B = <K extends Kind>(kind: K): readonly Site<K>[] =>
  Array.from({ length: 56 }, (_, index) => ({
    path: `layers.${index}`,
    kind,
    index,
    of: 56,
    shape: [index % 2 ? 1024 : 3072, 3072],
  })) as unknown as Site<K>[];
