// Random shapes, values and operands for the laws. Shapes shrink; numbers come from a seed.
import fc from 'fast-check';
import { rng } from '../../core/rng.ts';
import { type Shape, size } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Nd } from './naive.ts';

const side = fc.integer({ min: 1, max: 4 });

/** Tensors of 0 to 4 dimensions, single rows and single columns among them. */
export const shapes: fc.Arbitrary<Shape> = fc.oneof(
  fc.constant<Shape>([]),
  fc.tuple(side),
  fc.tuple(fc.constant(1), side),
  fc.tuple(side, fc.constant(1)),
  fc.tuple(side, side),
  fc.tuple(side, side, side),
  fc.tuple(fc.integer({ min: 1, max: 2 }), side, fc.integer({ min: 1, max: 2 }), side),
);
/** At least `rank` dimensions. */
export const shapesOf = (rank: number): fc.Arbitrary<Shape> => shapes.filter((s) => s.length >= rank);
export const withAxis: fc.Arbitrary<{ shape: Shape; axis: number }> = shapesOf(1).chain((shape) =>
  fc.integer({ min: -shape.length, max: shape.length - 1 }).map((axis) => ({ shape, axis })),
);
export const withAxes: fc.Arbitrary<{ shape: Shape; axes: readonly number[] }> = shapes.chain((shape) =>
  fc.subarray([...shape.keys()]).map((axes) => ({ shape, axes })),
);
/** `n` shapes that broadcast together: dimensions set to 1 and leading ones left out. */
export const broadcasting = (n: number): fc.Arbitrary<readonly Shape[]> =>
  shapes.chain((full) =>
    fc.tuple(
      ...Array.from({ length: n }, () =>
        fc
          .tuple(fc.integer({ min: 0, max: full.length }), fc.array(fc.boolean(), { minLength: full.length, maxLength: full.length }))
          .map(([drop, ones]) => full.map((d, k) => (ones[k] ? 1 : d)).slice(drop)),
      ),
    ),
  );
export const seeds = fc.integer({ min: 0, max: 0x7fffffff });

/** Where an operand's numbers lie: from the k-th uniform number of n to a value. */
export type Domain = (u: number, k: number, n: number, order: readonly number[]) => number;
export const between =
  (low: number, high: number): Domain =>
  (u) =>
    low + (high - low) * u;
/** At least `gap` from zero, at most 2. */
export const awayFromZero =
  (gap = 0.2): Domain =>
  (u) =>
    u < 0.5 ? -gap - (2 - gap) * 2 * u : gap + (2 - gap) * (2 * u - 1);
/** Near multiples of ½, moved by `offset`: two operands with offsets 0 and ¼ never tie. */
export const grid =
  (offset: number): Domain =>
  (u) =>
    Math.round(8 * u - 4) / 2 + offset + 0.05 * ((u * 97) % 1);
/** All different, 0.3 apart and more. */
export const apart: Domain = (u, k, n, order) => 0.3 * (order[k]! - n / 2) + 0.1 * u;
export const whole =
  (low: number, high: number): Domain =>
  (u) =>
    low + Math.floor((high - low) * u);

export interface Operand {
  readonly shape: Shape;
  readonly data: Float64Array; // rounded to float32, so that every engine starts from the same numbers
  readonly kind: 'real' | 'integer' | 'stopped'; // only real operands are differentiated
}
export function operand(shape: Shape, domain: Domain, seed: number, kind: Operand['kind'] = 'real'): Operand {
  const n = size(shape);
  const r = rng(seed).split(`operand ${shape}`);
  const order = r.permutation(n);
  return { shape, kind, data: Float64Array.from({ length: n }, (_, k) => Math.fround(domain(r.next(), k, n, order))) };
}

/** One application of an op: how to build it, what it should give, and how much rounding it may suffer. */
export interface Instance {
  readonly operands: readonly Operand[];
  readonly apply: (ts: readonly Tensor[]) => Tensor;
  readonly naive: (xs: readonly Nd[]) => Nd;
  /** Roundings on the way to one element: 0 when the numbers only move. */
  readonly depth: number;
  /** Magnitude that a rounding is relative to; the largest operand or result, and 1, unless given. */
  readonly scale?: (xs: readonly Nd[], y: Nd) => number;
  readonly label: string;
}
/** `name` is the exported function, with a variant after a colon. */
export interface Case {
  readonly name: string;
  readonly of: fc.Arbitrary<Instance>;
}

type Parts = Omit<Instance, 'label'> & { readonly attrs?: unknown };
/** An instance that prints itself in a counterexample. */
export function instance({ attrs, ...parts }: Parts): Instance {
  const label = `${parts.operands.map((o) => `[${o.shape}] = ${Array.from(o.data.slice(0, 8)).join(' ')}`).join(' ; ')} ${JSON.stringify(attrs ?? '')}`;
  return Object.assign({ ...parts, label }, { [fc.toStringMethod]: () => label });
}
