// defineOp: one declaration holds an op's name, inputs, shape rule, kernel, cost and derivative.
import type { Kernel } from './kernel.ts';
import { here, place, type Scope } from './scope.ts';
import { checkShape, type Shape, ShapeError, show } from './shape.ts';
import { Tensor } from './tensor.ts';

export type Ins<K extends string> = Readonly<Record<K, Tensor>>;
export type Shapes<K extends string> = Readonly<Record<K, Shape>>;

export interface OpDef<K extends string, A> {
  readonly name: string;
  readonly inputs: readonly K[];
  /** The result's shape; throws a ShapeError when the operands do not fit. */
  readonly shape: (s: Shapes<K>, attrs: A) => Shape;
  readonly kernel: Kernel<K, A>;
  /**
   * One thunk per input, so that the gradient of an input nobody asked for is never written down; `null` says that the
   * output does not depend on it differentiably. A composite may leave it out: its composition is differentiated.
   */
  readonly vjp?: (c: Ins<K> & { readonly dy: Tensor; readonly y: Tensor; readonly attrs: A }) => Record<K, (() => Tensor) | null>;
  /** Floating-point operations; one per output element when omitted. */
  readonly flops?: (s: Shapes<K>, out: Shape, attrs: A) => number;
  /** For inputs that hold indices: [lowest, one past the highest] that are legal. Fed values are checked against it. */
  readonly range?: (s: Shapes<K>, attrs: A) => Partial<Record<K, readonly [number, number]>>;
  /** Inputs that are frozen bytes, kept as bytes: engines that hold only float32 keep three in a number, and the kernel takes them out. */
  readonly bytes?: readonly K[];
  /** Inputs whose elements the kernel may compute as it reads them (`Body.read`), when they come from an op with an element kernel. */
  readonly inline?: readonly K[];
  /** The attributes that give rows from … to of the result only, where that is the same op: what `slice` then is. */
  readonly rows?: (attrs: A, from: number, to: number) => A;
  /** True when backward should compute the value again rather than keep it (a weight unpacked for one product). */
  readonly recompute?: boolean;
}

/** A declared op is the function that applies it. */
export interface Op<K extends string, A> {
  (ins: Ins<K>, attrs: A, at?: Scope): Tensor;
  readonly def: OpDef<K, A>;
}

/** An op whose input names and attributes have been forgotten: what a graph holds. */
export type AnyOp = OpDef<string, unknown>;

export function defineOp<K extends string, A = null>(def: OpDef<K, A>): Op<K, A> {
  // An anonymous function on purpose: modules of core import each other in a circle, so this one may be called before its own
  // top level has run, and tsx gives functions their names with a helper that only exists after that.
  return Object.assign(
    (ins: Ins<K>, attrs: A, at: Scope = here()): Tensor => {
      const shapes = shapesOf(
        def.inputs,
        def.inputs.map((k) => ins[k]),
      );
      let shape: Shape;
      try {
        shape = checkShape(def.shape(shapes, attrs), def.name);
      } catch (e) {
        if (!(e instanceof ShapeError)) throw e;
        const operands = def.inputs.map((k) => `${k}: ${show(shapes[k])}`).join(', ');
        throw new ShapeError(`${e.reason}\n  op ${def.name}(${operands}) ${place(at)}`, '');
      }
      // The one place that forgets K and A. What is stored together was checked together, two lines above.
      return new Tensor(shape, { kind: 'apply', op: def as unknown as AnyOp, ins: def.inputs.map((k) => ins[k]), attrs }, at);
    },
    { def },
  );
}

/** Names operands: the inverse of `def.inputs.map(k => ins[k])`. */
export const zip = <K extends string, T>(keys: readonly K[], values: readonly T[]): Record<K, T> =>
  Object.fromEntries(keys.map((k, i) => [k, values[i]])) as Record<K, T>;

export const shapesOf = <K extends string>(keys: readonly K[], ins: readonly Tensor[]): Shapes<K> =>
  zip(
    keys,
    ins.map((t) => t.shape),
  );

/** Applies an op that was read out of a graph to other operands. */
export const reapply = (op: AnyOp, ins: readonly Tensor[], attrs: unknown, at: Scope): Tensor =>
  new Tensor(op.shape(shapesOf(op.inputs, ins), attrs), { kind: 'apply', op, ins, attrs }, at);
