// A Tensor is an immutable recipe: what to compute, not the numbers. Engines run recipes; `grad` rewrites them.
import type { AnyOp } from './op.ts';
import { add, div, mul, neg, sub } from './ops/map.ts';
import { matmul } from './ops/matmul.ts';
import { permute, reshape, slice } from './ops/move.ts';
import { mean, sum } from './ops/reduce.ts';
import { here, place, type Scope } from './scope.ts';
import { checkShape, type Shape, ShapeError, show, size } from './shape.ts';

/** Concrete numbers. Integer arrays are compact storage of small integers; arithmetic on them is float. */
export type Data = Float32Array | Float64Array | Int32Array | Int8Array | Uint8Array;

/** A value that training may change: it lives in an engine's store, keyed by this object's identity. */
export interface Param {
  readonly shape: Shape;
  readonly value: Data; // the value it starts from
  readonly lr: number; // multiplies the optimizer's learning rate (LoRA+)
  readonly decay: boolean; // false excludes it from weight decay (norms, gates, (IA)³)
  readonly active: boolean; // false keeps value and moments bit for bit (dropped layers, unrouted experts)
}

/** Random numbers an input is filled with when it is not fed: drawn on the host from the run's seed and the input's name. */
export type Fill = { dist: 'bernoulli'; keep: number } | { dist: 'uniform' } | { dist: 'normal' };

export type Source =
  | { readonly kind: 'leaf'; readonly data: Data } // frozen numbers, never changed after use
  | { readonly kind: 'input'; readonly name: string; readonly fill: Fill | null } // fed on every run
  | { readonly kind: 'state'; readonly param: Param }
  | { readonly kind: 'apply'; readonly op: AnyOp; readonly ins: readonly Tensor[]; readonly attrs: unknown }
  | { readonly kind: 'view'; readonly of: Tensor }; // same table, other row shape

export class Tensor {
  readonly shape: Shape;
  readonly source: Source;
  readonly at: Scope;

  constructor(shape: Shape, source: Source, at: Scope = here()) {
    this.shape = shape;
    this.source = source;
    this.at = at;
  }

  add(o: Tensor | number): Tensor {
    return add(this, o);
  }
  sub(o: Tensor | number): Tensor {
    return sub(this, o);
  }
  mul(o: Tensor | number): Tensor {
    return mul(this, o);
  }
  div(o: Tensor | number): Tensor {
    return div(this, o);
  }
  neg(): Tensor {
    return neg(this);
  }
  /** Matrix product over the last two dimensions; leading dimensions broadcast. */
  matmul(o: Tensor): Tensor {
    return matmul(this, o);
  }
  sum(axes?: readonly number[], keep = false): Tensor {
    return sum(this, axes, keep);
  }
  mean(axes?: readonly number[], keep = false): Tensor {
    return mean(this, axes, keep);
  }
  reshape(...shape: number[]): Tensor {
    return reshape(this, shape);
  }
  permute(...order: number[]): Tensor {
    return permute(this, order);
  }
  /** `end` may be negative or omitted, as in JavaScript's slice. */
  slice(axis: number, start: number, end?: number): Tensor {
    return slice(this, axis, start, end);
  }
  /** The last two dimensions swapped. `x.matmul(w.T)` does not copy `w`. */
  get T(): Tensor {
    const n = this.shape.length;
    if (n < 2) throw new ShapeError(`T: a tensor of shape ${show(this.shape)} has no two dimensions to swap`, this.at.path);
    return permute(this, [...Array(n - 2).keys(), n - 1, n - 2]);
  }

  /** One line, never the graph: shape, what it is, where it was made. */
  toString(): string {
    const s = this.source;
    const what = s.kind === 'apply' ? s.op.name : s.kind === 'input' ? `input ${s.name}` : s.kind;
    return `Tensor ${show(this.shape)} ${what} ${place(this.at)}, not computed yet: await engine.read(t)`;
  }
  toJSON(): string {
    return this.toString();
  }
  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return this.toString();
  }
}

/** Frozen numbers. Plain arrays become Float32Array. Throws when the count does not match the shape. */
export function leaf(data: Data | readonly number[], shape: Shape): Tensor {
  const d = ArrayBuffer.isView(data) ? data : Float32Array.from(data);
  checkShape(shape, 'leaf');
  if (d.length !== size(shape))
    throw new ShapeError(`leaf: ${d.length} numbers cannot have shape ${show(shape)}, which needs ${size(shape)}`);
  return new Tensor(shape, { kind: 'leaf', data: d });
}

/** A placeholder fed by name on every run. With `fill`, what is not fed is drawn from the run's seed. */
export const input = (name: string, shape: Shape, fill: Fill | null = null): Tensor =>
  new Tensor(checkShape(shape, `input ${name}`), { kind: 'input', name, fill });

/** A trainable value. Two tensors of one Param are one value: tying weights is using the same tensor twice. */
export function param(
  data: Data | readonly number[],
  shape: Shape,
  { lr = 1, decay = true, active = true }: Partial<Pick<Param, 'lr' | 'decay' | 'active'>> = {},
): Tensor {
  const source = leaf(data, shape).source;
  if (source.kind !== 'leaf') throw new Error('unreachable: leaf() makes leaves');
  return stateOf({ shape, value: source.data, lr, decay, active });
}

/** The tensor that reads a parameter. */
export const stateOf = (p: Param): Tensor => new Tensor(p.shape, { kind: 'state', param: p });

/** The parameter a tensor reads, or null when it is anything else. */
export const paramOf = (t: Tensor): Param | null => (t.source.kind === 'state' ? t.source.param : null);

/** What a recipe directly reads. */
export const inputsOf = (t: Tensor): readonly Tensor[] =>
  t.source.kind === 'apply' ? t.source.ins : t.source.kind === 'view' ? [t.source.of] : [];

/** Every recipe reachable from `roots`, each once, inputs before users; does not look below `until`. */
export function topological(roots: readonly Tensor[], until: ReadonlySet<Tensor> = new Set()): Tensor[] {
  const order: Tensor[] = [];
  const seen = new Set<Tensor>();
  const stack: { t: Tensor; ins: readonly Tensor[]; next: number }[] = [];
  const open = (t: Tensor): void => {
    if (seen.has(t)) return;
    seen.add(t);
    stack.push({ t, ins: until.has(t) ? [] : inputsOf(t), next: 0 });
  };
  for (const root of roots) {
    // a loop, not recursion: deep graphs must not overflow the stack
    open(root);
    for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
      const child = top.ins[top.next++];
      if (child === undefined) {
        order.push(top.t);
        stack.pop();
      } else open(child);
    }
  }
  return order;
}
