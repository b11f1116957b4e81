// The model as a tree of layers with paths: walk it, list its tensors, and rebuild it with some parts replaced.
import { type Param, paramOf, Tensor } from '../core/tensor.ts';
import { type AnyLayer, BASE, type Field, type Fields, isLayer, isRecord, type Kind, type Layer, ofKind } from './layer.ts';

export const join = (path: string, name: string): string => (path === '' ? name : `${path}.${name}`);

/** Children of a field, with the paths their names give them. What lies under an attachment, or another layer around a BASE, keeps its path. */
function* children(f: Field, path: string): Generator<readonly [path: string, child: Field]> {
  if (isLayer(f))
    for (const [k, v] of Object.entries(f.fields)) yield [k === BASE || (k === 'value' && f.kind === 'weight') ? path : join(path, k), v];
  else if (Array.isArray(f)) for (const [k, v] of f.entries()) yield [join(path, String(k)), v];
  else if (isRecord(f)) for (const [k, v] of Object.entries(f)) yield [join(path, k), v];
}

/** Every layer with its path, outermost first. A wrapped layer follows its wrapper under the same path. */
export function* layers(root: Field, path = ''): Generator<{ readonly path: string; readonly layer: AnyLayer }> {
  if (isLayer(root)) yield { path, layer: root };
  for (const [p, child] of children(root, path)) yield* layers(child, p);
}

/** Every tensor with its path; a tensor used twice appears at each place. */
export function* tensors(root: Field, path = ''): Generator<{ readonly path: string; readonly tensor: Tensor }> {
  if (root instanceof Tensor) yield { path, tensor: root };
  else for (const [p, child] of children(root, path)) yield* tensors(child, p);
}

/** Every parameter once, by the first path that leads to it. */
export function params(root: Field): Map<Param, string> {
  const found = new Map<Param, string>();
  for (const { path, tensor } of tensors(root)) {
    const p = paramOf(tensor);
    if (p !== null && !found.has(p)) found.set(p, path);
  }
  return found;
}
/** The parameters an optimizer changes. Buffers (`active: false`) are not among them. */
export const trainable = (root: Field): Map<Param, string> => new Map([...params(root)].filter(([p]) => p.active));

/** A tree with every tensor replaced by `f`; what does not change is shared with the old tree. */
export function mapTensors<T extends Field>(root: T, f: (t: Tensor, path: string) => Tensor): T {
  return rebuild(root, '', (field, path) => (field instanceof Tensor ? f(field, path) : null));
}

/**
 * A tree with layers of one kind replaced: `f` gets the outermost layer of that kind at each path, a layer shared by two places
 * once, with its first path. Everything unchanged is shared with the old tree, and the old tree is as it was.
 */
export function substitute<K extends Kind, T extends Field>(
  root: T,
  kind: K,
  f: (layer: Layer<K>, path: string) => AnyLayer<K> | null,
  path = '',
): T {
  return rebuild(root, path, (field, p) => (isLayer(field) && field.kind === kind ? f(ofKind(field, kind), p) : null));
}

/** A tree with every layer for which `change` answers something replaced by the answer; below that nothing is visited. */
export const rewrite = <T extends Field>(root: T, change: (l: AnyLayer, path: string) => AnyLayer | null): T =>
  rebuild(root, '', (f, p) => (isLayer(f) ? change(f, p) : null));

/** Rebuilds from the top; where `change` answers something, that stands and nothing below it is visited. */
function rebuild<T extends Field>(root: T, path: string, change: (f: Field, path: string) => Field | null): T {
  const seen = new Map<Field, Field>(); // a layer shared by two places stays shared
  const visit = (f: Field, p: string): Field => {
    const known = typeof f === 'object' || typeof f === 'function' ? seen.get(f) : undefined;
    if (known !== undefined) return known;
    const next = change(f, p) ?? inside(f, p);
    if (typeof f === 'object' || typeof f === 'function') seen.set(f, next);
    return next;
  };
  const inside = (f: Field, p: string): Field => {
    if (f instanceof Tensor || (!isLayer(f) && !Array.isArray(f) && !isRecord(f))) return f;
    const old = Object.values(isLayer(f) ? f.fields : f) as Field[];
    const now = [...children(f, p)].map(([cp, c]) => visit(c, cp));
    if (now.every((c, i) => c === old[i])) return f;
    if (Array.isArray(f)) return now;
    const fields: Fields = Object.fromEntries(Object.keys(isLayer(f) ? f.fields : f).map((k, i) => [k, now[i]!]));
    return isLayer(f) ? f.with(fields) : fields;
  };
  return visit(root, path) as T;
}
