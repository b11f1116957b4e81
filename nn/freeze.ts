// Turning parameters into fixed numbers and back, and putting trained numbers into a tree.
import type { Engine } from '../core/engine.ts';
import type { Numbers } from '../core/plan.ts';
import { type Data, leaf, type Param, param, paramOf, stateOf, type Tensor } from '../core/tensor.ts';
import type { Field } from './layer.ts';
import { isPacked } from './linear.ts';
import { layers, mapTensors, tensors } from './tree.ts';

/** Every parameter becomes a frozen leaf holding the value it starts from. Tied tensors stay tied. */
export function freeze<T extends Field>(tree: T): T {
  const leaves = new Map<Param, Tensor>();
  return mapTensors(tree, (t) => {
    const p = paramOf(t);
    if (p === null) return t;
    const l = leaves.get(p) ?? leaf(p.value, p.shape);
    leaves.set(p, l);
    return l;
  });
}

/**
 * Frozen leaves become parameters where `where` holds for one of their paths (a tied tensor has several). Vectors (biases,
 * norms) are not decayed. Tensors that a method declares fixed stay fixed. Throws when nothing matches, and for packed weights.
 */
export function unfreeze<T extends Field>(tree: T, where: (path: string) => boolean): T {
  const fixed = new Set<Tensor>();
  for (const { layer } of layers(tree))
    if (layer.attached !== null) for (const { tensor } of tensors(layer.fields[layer.attached.field] ?? null)) fixed.add(tensor);
  const packed = new Map<Tensor, string>();
  for (const { path, layer: l } of layers(tree)) if (isPacked(l)) for (const { tensor } of tensors(l)) packed.set(tensor, path);
  const made = new Map<Tensor, Tensor>();
  const paths = new Set<string>();
  let trained = 0; // tensors that match and are trained already
  for (const { path, tensor } of tensors(tree)) {
    if (fixed.has(tensor)) continue;
    paths.add(path);
    if (!where(path)) continue;
    if (packed.has(tensor))
      throw new Error(
        `unfreeze: ${packed.get(tensor)} is packed, and what it is packed in cannot be trained. Unpack the model first: widened(model) where it is halves (or open it with dtype: 'float32'), else await realize(unpacked(model), engine)`,
      );
    const s = tensor.source;
    if (s.kind === 'leaf' && !made.has(tensor)) made.set(tensor, param(s.data, tensor.shape, { decay: tensor.shape.length > 1 }));
    if (s.kind === 'state') trained++;
  }
  if (made.size + trained === 0)
    throw new RangeError(
      `unfreeze: where matches no tensor of this model; its tensors are ${[...paths].slice(0, 8).join(', ')}, … (${paths.size})`,
    );
  return mapTensors(tree, (t) => made.get(t) ?? t);
}

/** The same tree with parameters starting from other values (as a trainer leaves them). */
export function withValues<T extends Field>(tree: T, values: ReadonlyMap<Param, Numbers>): T {
  const made = new Map<Param, Tensor>();
  return mapTensors(tree, (t) => {
    const p = paramOf(t);
    const value = p === null ? undefined : values.get(p);
    if (p === null || value === undefined) return t;
    const now = made.get(p) ?? stateOf({ ...p, value });
    made.set(p, now);
    return now;
  });
}

/** Computes every recipe in a tree (a merged weight, a flattened prefix) once and puts the numbers in its place. */
export async function realize<T extends Field>(tree: T, engine: Engine): Promise<T> {
  const computed = new Map<Tensor, Tensor>();
  for (const { tensor } of tensors(tree)) {
    if (computed.has(tensor) || (tensor.source.kind !== 'apply' && tensor.source.kind !== 'view')) continue;
    const values = await engine.read(tensor);
    computed.set(tensor, leaf(values.slice(), tensor.shape));
  }
  return mapTensors(tree, (t) => computed.get(t) ?? t);
}

/**
 * The same tree with its frozen numbers in the engine's own memory, where it has one (simd with shared memory; elsewhere the tree is
 * answered as it is). Without this every engine keeps a copy beside the caller's. Let go of the old tree, and its numbers are held once.
 * They stay for as long as the engine is open or the new tree is used; every engine can read them.
 */
export function moveTo<T extends Field>(tree: T, { adopt }: Pick<Engine, 'adopt'>): T {
  if (adopt === undefined) return tree;
  const arrays = new Map<Data, Data>();
  const moved = new Map<Tensor, Tensor>();
  return mapTensors(tree, (t) => {
    const s = t.source;
    if (s.kind !== 'leaf') return t;
    const data = arrays.get(s.data) ?? adopt(s.data);
    arrays.set(s.data, data);
    const now = moved.get(t) ?? (data === s.data ? t : leaf(data, t.shape));
    moved.set(t, now);
    return now;
  });
}
