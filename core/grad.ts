// Reverse mode: from a recipe for a number to recipes for its gradients. Runs nothing.
//   dx = Σ (∂y/∂x)ᵀ dy,  over all y that are computed from x, from the loss backwards
//   y = checkpoint(f, x):  forward keeps x;  backward computes the inside of f again from x, and dx = (∂f/∂x)ᵀ dy at what comes out
// Checkpoints: Chen et al. 2016, arXiv 1604.06174.

import { reapply, zip } from './op.ts';
import { add, full } from './ops/map.ts';
import { concat, pad, reshape } from './ops/move.ts';
import { here, within } from './scope.ts';
import { ShapeError, show, size } from './shape.ts';
import { inputsOf, Tensor, topological } from './tensor.ts';

/**
 * ∂loss/∂w for each w in `wrt`, as recipes. Only tensors on a path from a wanted leaf are visited: the gradient of a
 * frozen weight is not computed and thrown away, it is never written down. A `w` that does not reach the loss gets zeros.
 */
export function grad(loss: Tensor, wrt: readonly Tensor[]): Tensor[] {
  if (size(loss.shape) !== 1)
    throw new ShapeError(`grad: the loss must be one number, got ${show(loss.shape)}; take its mean or sum, or use pullback(y, dy, wrt)`);
  return within({ phase: 'backward' }, () => pullback(loss, full(loss.shape, 1), wrt));
}

/** Σ dy·∂y/∂w for each w: the vector–Jacobian product. Nothing below a tensor in `until` is visited. */
export function pullback(y: Tensor, dy: Tensor, wrt: readonly Tensor[], until: readonly Tensor[] = []): Tensor[] {
  const wanted = new Set(wrt.map(identity));
  const order = topological([y], new Set(until));
  const leads = new Set<unknown>(); // tensors some wanted one flows into
  for (const t of order) if (wanted.has(identity(t)) || inputsOf(t).some((i) => leads.has(identity(i)))) leads.add(identity(t));

  const cotangent = new Map<unknown, Tensor>([[identity(y), dy]]);
  const receive = (t: Tensor, d: Tensor): void => {
    const sum = cotangent.get(identity(t));
    cotangent.set(identity(t), sum === undefined ? d : accumulate(sum, d)); // a value used twice adds its gradients
  };
  const stop = new Set(until);
  const restored = new Map<Tensor, Tensor>(); // values of forward as backward has computed them from later ones
  for (const t of order.toReversed()) {
    const d = cotangent.get(identity(t));
    if (d === undefined || !leads.has(identity(t)) || stop.has(t)) continue;
    // Derivatives of a checkpoint's copy belong to the copy: what they recompute is not taken from the forward pass either.
    within({ path: t.at.path, phase: 'backward', copy: t.at.copy }, () => {
      for (const [into, dx] of contributions(t, d, (i) => leads.has(identity(i)), wanted, restored)) receive(into, dx);
    });
  }
  return wrt.map((w) => cotangent.get(identity(w)) ?? full(w.shape, 0));
}

/** a + b; but the gradients of neighbouring slices are joined, so that a split costs one copy and adds no zeros. */
function accumulate(a: Tensor, b: Tensor): Tensor {
  const [x, y] = [padding(a), padding(b)];
  if (x === null || y === null || x.axis !== y.axis) return add(a, b);
  const [first, second] = x.before < y.before ? [x, y] : [y, x];
  if (first.before + first.of.shape[first.axis]! !== second.before) return add(a, b);
  return pad(concat([first.of, second.of], first.axis), first.axis, first.before, second.after);
}
interface Padded {
  readonly of: Tensor;
  readonly axis: number;
  readonly before: number;
  readonly after: number;
}
/** What a tensor padded with zeros was made of. */
function padding({ source: s }: Tensor): Padded | null {
  if (s.kind !== 'apply' || s.op.name !== 'pad') return null;
  const { value, ...place } = s.attrs as Omit<Padded, 'of'> & { value: number };
  return value === 0 ? { ...place, of: s.ins[0]! } : null;
}

/** Two tensors of one parameter are one variable. */
const identity = (t: Tensor): unknown => (t.source.kind === 'state' ? t.source.param : t);

const distinct = (ts: readonly Tensor[]): Tensor[] => [...new Map(ts.map((t) => [identity(t), t])).values()];

/** A value to be computed again, with what of its inputs is: a copy never merged with the one forward computed. All else is itself. */
const again = (t: Tensor): Tensor =>
  t.source.kind === 'apply' && t.source.op.recompute === true
    ? reapply(t.source.op, t.source.ins.map(again), t.source.attrs, { path: t.at.path, phase: 'backward', copy: t.at.copy + 1 })
    : t;

/** What t's cotangent sends to each of its inputs that `marked` wants. */
function* contributions(
  t: Tensor,
  dy: Tensor,
  marked: (t: Tensor) => boolean,
  wanted: ReadonlySet<unknown>,
  restored: Map<Tensor, Tensor>,
): Generator<readonly [Tensor, Tensor]> {
  const s = t.source;
  if (s.kind === 'view') {
    yield [s.of, reshape(dy, s.of.shape)];
    return;
  }
  if (s.kind !== 'apply') return;
  const { op, ins, attrs } = s;
  if (op === checkpointOp) {
    yield* throughCheckpoint(t, attrs as Checkpoint, dy, marked, wanted, restored);
    return;
  }
  if (op.vjp !== undefined) {
    const thunks = op.vjp({ ...zip(op.inputs, ins.map(again)), dy, y: t, attrs } as never); // a graph has forgotten K and A
    for (const [k, thunk] of Object.entries(thunks)) {
      const input = ins[op.inputs.indexOf(k)]!;
      if (thunk !== null && marked(input)) yield [input, thunk()];
    }
    return;
  }
  if (op.kernel.kind !== 'composite') throw new Error(`op ${op.name} has neither a vjp nor a composition`);
  const unique = distinct(ins).filter(marked); // differentiate what the op is made of
  const grads = pullback(op.kernel.of(zip(op.inputs, ins), attrs), dy, unique, ins);
  for (const [k, input] of unique.entries()) yield [input, grads[k]!];
}

/* Checkpointing: forward keeps only the boundary; backward recomputes what is inside, as copies no other pass shares. */
export interface Checkpoint {
  readonly inside: Tensor;
  readonly boundary: readonly Tensor[];
  /** What entered, from what left: then the boundary, which is one tensor, is not kept either. */
  readonly inverse?: (y: Tensor) => Tensor;
}
export const checkpointOp = {
  name: 'checkpoint',
  inputs: ['y'],
  shape: ({ y }: Readonly<Record<string, readonly number[]>>) => y!,
  kernel: { kind: 'map', expr: 'y' },
  flops: () => 0,
} as const;

/** f(...xs), but nothing computed inside f is kept for backward: it is computed again there (Chen et al. 2016, arXiv 1604.06174). */
export const checkpoint = (f: (...xs: Tensor[]) => Tensor, ...xs: Tensor[]): Tensor => checkpointed({ inside: f(...xs), boundary: xs });

/**
 * f(x) for an f that `inverse` undoes: backward computes x from f(x) and keeps neither x nor anything inside f. In a chain only the last
 * value is kept (Gomez et al. 2017, arXiv 1707.04585). Gradients are those of the x that comes back, rounded as inverse rounds it.
 */
export const reversible = (f: (x: Tensor) => Tensor, inverse: (y: Tensor) => Tensor, x: Tensor): Tensor =>
  checkpointed({ inside: f(x), boundary: [x], inverse });

const checkpointed = (attrs: Checkpoint, at = here()): Tensor =>
  new Tensor(attrs.inside.shape, { kind: 'apply', op: checkpointOp, ins: [attrs.inside], attrs }, at);

function* throughCheckpoint(
  y: Tensor,
  { inside, boundary, inverse }: Checkpoint,
  dy: Tensor,
  leads: (t: Tensor) => boolean,
  wanted: ReadonlySet<unknown>,
  restored: Map<Tensor, Tensor>,
): Generator<readonly [Tensor, Tensor]> {
  // A value inside whose own gradient is asked for is kept: its copy would be another variable.
  const kept = [...boundary, ...topological([inside], new Set(boundary)).filter((t) => wanted.has(t) && t !== inside)];
  const values = new Map(kept.map((t) => [t, t]));
  if (inverse !== undefined) {
    const [x, left] = [boundary[0]!, restored.get(y) ?? y];
    const back = within({ path: y.at.path, phase: 'backward', copy: y.at.copy + 1 }, () => inverse(left));
    restored.set(x, back);
    values.set(x, back);
  }
  const origin = new Map([...values].map(([t, value]) => [value, t]));
  const again = recompute(inside, values);
  const targets = distinct(topological([again], new Set(values.values()))).filter(
    (t) =>
      leads(origin.get(t) ?? t) && (origin.has(t) || t.source.kind === 'state' || t.source.kind === 'leaf' || t.source.kind === 'input'),
  );
  const grads = pullback(again, dy, targets, [...values.values()]);
  for (const [k, t] of targets.entries()) yield [origin.get(t) ?? t, grads[k]!];
}

/** A copy of the graph from `values` (of the boundary) to `y`, marked so that it is never merged with the original. */
function recompute(y: Tensor, values: ReadonlyMap<Tensor, Tensor>): Tensor {
  const copies = new Map(values);
  const copy = (t: Tensor): Tensor => copies.get(t) ?? t;
  for (const t of topological([y], new Set(values.keys()))) {
    if (copies.has(t)) continue;
    const at = { path: t.at.path, phase: 'backward' as const, copy: t.at.copy + 1 };
    if (t.source.kind === 'view') copies.set(t, new Tensor(t.shape, { kind: 'view', of: copy(t.source.of) }, at));
    else if (t.source.kind === 'apply' && t.source.op === checkpointOp) {
      const inner = t.source.attrs as Checkpoint;
      copies.set(t, checkpointed({ ...inner, inside: copy(inner.inside), boundary: inner.boundary.map(copy) }, at));
    } else if (t.source.kind === 'apply') copies.set(t, reapply(t.source.op, t.source.ins.map(copy), t.source.attrs, at));
  }
  return copy(y);
}
