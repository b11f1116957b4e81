// Plain arithmetic on arrays of doubles, for second implementations of methods straight from their equations.
import type { Engine } from '../../core/engine.ts';
import { rng } from '../../core/rng.ts';
import { leaf, paramOf, type Tensor } from '../../core/tensor.ts';
import { type AnyLayer, type Kind, type Layer, type Model, ofKind } from '../../nn/layer.ts';
import { layers, tensors } from '../../nn/tree.ts';

export type Matrix = readonly (readonly number[])[];

/** x·Wᵀ + b */
export const affine = (x: Matrix, w: Matrix, b?: readonly number[]): number[][] =>
  x.map((row) => w.map((weights, o) => weights.reduce((s, v, i) => s + v * row[i]!, b?.[o] ?? 0)));
export const plus = (a: Matrix, b: Matrix): number[][] => a.map((row, i) => row.map((v, j) => v + b[i]![j]!));
export const scaled = (a: Matrix, s: (i: number, j: number) => number): number[][] => a.map((row, i) => row.map((v, j) => v * s(i, j)));
export const each = (a: Matrix, f: (v: number) => number): number[][] => a.map((row) => row.map(f));
export const sigmoid = (v: number): number => 1 / (1 + Math.exp(-v));
export const silu = (v: number): number => v * sigmoid(v);
export const relu = (v: number): number => Math.max(v, 0);
export const softmax = (row: readonly number[]): number[] => {
  const e = row.map((v) => Math.exp(v - Math.max(...row)));
  return e.map((v) => v / e.reduce((a, b) => a + b));
};
/** Attention of one head for queries [T, D] over keys and values [S, D]; query i sees keys j where `sees(i, j)`. */
export const attention = (q: Matrix, k: Matrix, v: Matrix, sees: (i: number, j: number) => boolean): number[][] =>
  q.map((row, i) => {
    const p = softmax(k.map((key, j) => (sees(i, j) ? key.reduce((s, x, d) => s + x * row[d]!, 0) / Math.sqrt(row.length) : -1e9)));
    return v[0]!.map((_, d) => v.reduce((s, value, j) => s + p[j]! * value[d]!, 0));
  });

/** Numbers cut into rows. */
export const rowsOf = (flat: ArrayLike<number>, cols: number): number[][] =>
  Array.from({ length: flat.length / cols }, (_, r) => Array.from({ length: cols }, (_, c) => flat[r * cols + c]!));

export const random = (seed: number, shape: readonly number[]): Tensor =>
  leaf(
    rng(seed).normal(
      shape.reduce((a, b) => a * b),
      1,
    ),
    shape,
  );

/** The outermost layer at a path. */
export function layerAt<K extends Kind>(model: Model, kind: K, path: string): Layer<K> {
  for (const { path: p, layer } of layers(model)) if (p === path && layer.kind === kind) return ofKind(layer as AnyLayer, kind);
  throw new Error(`no ${kind} at ${path}`);
}

/** Values of all tensors whose path starts with a place's, by the rest of the path, as matrices of their last dimension. */
export async function own(engine: Engine, model: Model, place: string): Promise<Record<string, number[][]>> {
  const found: Record<string, number[][]> = {};
  for (const { path, tensor } of tensors(model))
    if (path.startsWith(`${place}.`)) found[path.slice(place.length + 1)] = rowsOf(await engine.read(tensor), tensor.shape.at(-1) ?? 1);
  return found;
}

/** Scalars trained in a tree. */
export const trained = (model: Model): number => {
  const once = new Set<unknown>();
  let n = 0;
  for (const { tensor } of tensors(model)) {
    const p = paramOf(tensor);
    if (p === null || !p.active || once.has(p)) continue;
    once.add(p);
    n += p.value.length;
  }
  return n;
};

/** Largest difference relative to the largest magnitude. */
export function apart(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let [difference, size] = [0, 0];
  for (let i = 0; i < a.length; i++) {
    difference = Math.max(difference, Math.abs(a[i]! - b[i]!));
    size = Math.max(size, Math.abs(b[i]!));
  }
  return difference / Math.max(size, 1e-300);
}
export const flat = (m: Matrix): number[] => m.flat();
