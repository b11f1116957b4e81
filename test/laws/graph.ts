// Questions about the graph of a training step: is a frozen weight's gradient in it, how far does backward run, and the
// loss with its stopped gradients held, which is the function that the gradients are gradients of.
import type { Engine } from '../../core/engine.ts';
import { grad } from '../../core/grad.ts';
import { reapply } from '../../core/op.ts';
import { lower } from '../../core/schedule.ts';
import { leaf, stateOf, Tensor, topological } from '../../core/tensor.ts';
import { type Field, isLayer, type Model } from '../../nn/layer.ts';
import { layers, tensors, trainable } from '../../nn/tree.ts';

/** Gradients of the loss for everything trained, in the order of `trainable(model)`. */
export const gradients = (loss: Tensor, model: Model): Tensor[] => grad(loss, [...trainable(model).keys()].map(stateOf));

/** Frozen leaves of a model with their paths, except those that a method on a `weight` adds its own tensors to: W + δ has δ's gradient. */
export function frozenLeaves(model: Model): { path: string; tensor: Tensor }[] {
  const adapted = [...layers(model)].filter(({ layer }) => layer.kind === 'weight' && layer.attached !== null).map(({ path }) => path);
  const seen = new Set<Tensor>();
  return [...tensors(model)].filter(({ path, tensor }) => {
    if (tensor.source.kind !== 'leaf' || seen.has(tensor) || adapted.some((a) => path === a || path.startsWith(`${a}.`))) return false;
    seen.add(tensor);
    return true;
  });
}

/**
 * The frozen leaves whose gradient is computed somewhere in `graph`. Each forbidden gradient is written down on purpose,
 * equal subexpressions of it and of the graph are merged, and then it is looked up in the graph. A sum over several uses
 * counts when any of its terms is there.
 */
export function frozenGradientsIn(graph: readonly Tensor[], loss: Tensor, model: Model): string[] {
  const reached = new Set(topological([loss]));
  const leaves = frozenLeaves(model).filter(({ tensor }) => reached.has(tensor));
  const forbidden = grad(
    loss,
    leaves.map(({ tensor }) => tensor),
  ).map(terms);
  const needed = graph.flatMap((t) => [t, ...terms(t)]); // what a trained tensor's own gradient is, and its terms where it has several uses
  const canonical = lower([...needed, ...forbidden.flat()]);
  const present = new Set(topological(canonical.slice(0, needed.length)).map(stored));
  const wanted = new Set(canonical.slice(0, needed.length).map(stored));
  let at = needed.length;
  return leaves.flatMap(({ path }, k) => {
    const own = canonical.slice(at, at + forbidden[k]!.length).map(stored);
    at += own.length;
    return own.some((t) => present.has(t) && !wanted.has(t)) ? [path] : [];
  });
}
const stored = (t: Tensor): Tensor => (t.source.kind === 'view' ? t.source.of : t);
const terms = (t: Tensor): Tensor[] =>
  t.source.kind === 'apply' && t.source.op.name === 'add' && t.at.phase === 'backward' ? t.source.ins.flatMap(terms) : [t];

/** Paths of the layers whose backward pass is in a graph. */
export const backwardPaths = (graph: readonly Tensor[]): string[] =>
  [...new Set(topological(graph).flatMap((t) => (t.at.phase === 'backward' && t.source.kind === 'apply' ? [t.at.path] : [])))].sort();

/** The same recipe with every stopped gradient replaced by the numbers it has now. */
export async function held(root: Tensor, engine: Engine): Promise<Tensor> {
  const now = new Map<Tensor, Tensor>();
  const get = (t: Tensor): Tensor => now.get(t) ?? t;
  for (const t of topological([root])) {
    const s = t.source;
    if (s.kind === 'view' && get(s.of) !== s.of) now.set(t, new Tensor(t.shape, { kind: 'view', of: get(s.of) }, t.at));
    else if (s.kind === 'apply') {
      if (s.op.name === 'stopGradient') now.set(t, leaf((await engine.read(t)).slice(), t.shape));
      else if (s.ins.some((i) => get(i) !== i)) now.set(t, reapply(s.op, s.ins.map(get), s.attrs, t.at));
    }
  }
  return get(root);
}

/** Everything methods hold in a model, once each: what an adapter file stores. */
export function ownTensors(model: Field): Map<unknown, { path: string; tensor: Tensor }> {
  const own = new Map<unknown, { path: string; tensor: Tensor }>();
  for (const { path, layer } of layers(model)) {
    if (!isLayer(layer) || layer.attached === null) continue;
    for (const t of tensors(layer.fields[layer.attached.field] ?? null, `${path}.${layer.attached.field}`))
      if (!own.has(identity(t.tensor))) own.set(identity(t.tensor), t);
  }
  return own;
}
const identity = (t: Tensor): unknown => (t.source.kind === 'state' ? t.source.param : t);
