// Movements that need not happen: a permuted, sliced or reshaped tensor as a walk through the table it came from.

import { reapply } from '../op.ts';
import { permute, reshape, slice } from '../ops/move.ts';
import { here } from '../scope.ts';
import { type Shape, same, size } from '../shape.ts';
import type { Tensor } from '../tensor.ts';

/** Element (i₀, i₁, …) lies at offset + Σ iₖ·strides[k] of the base, in elements. */
export interface Strided {
  readonly base: Tensor;
  readonly offset: number;
  readonly strides: readonly number[];
}
export const contiguous = (s: Shape): readonly number[] => s.map((_, k) => size(s.slice(k + 1)));

/** Where the elements of a (lowered) tensor lie. */
export function strided(t: Tensor): Strided {
  const whole: Strided = { base: t, offset: 0, strides: contiguous(t.shape) };
  const s = t.source;
  if (s.kind === 'view') return reshaped(strided(s.of), s.of.shape, t.shape) ?? whole;
  if (s.kind !== 'apply') return whole;
  const x = s.ins[0];
  switch (s.op.name) {
    case 'reshape':
      return reshaped(strided(x!), x!.shape, t.shape) ?? whole;
    case 'permute': {
      const of = strided(x!);
      return { ...of, strides: (s.attrs as { order: readonly number[] }).order.map((o) => of.strides[o]!) };
    }
    case 'slice': {
      const of = strided(x!);
      const { axis, start } = s.attrs as { axis: number; start: number };
      return { ...of, offset: of.offset + start * of.strides[axis]! };
    }
    default:
      return whole;
  }
}

/** The same elements under another shape, or null where no strides say that. */
function reshaped(x: Strided, from: Shape, to: Shape): Strided | null {
  const runs: { n: number; stride: number }[] = []; // dimensions that run on, joined
  for (const [k, n] of from.entries()) {
    if (n === 1) continue;
    const outer = runs.at(-1);
    if (outer !== undefined && outer.stride === n * x.strides[k]!) runs[runs.length - 1] = { n: outer.n * n, stride: x.strides[k]! };
    else runs.push({ n, stride: x.strides[k]! });
  }
  const strides: number[] = [];
  let k = to.length - 1;
  for (const { n, stride } of runs.toReversed()) {
    let done = 1;
    while (done < n) {
      if (k < 0 || n % (done * to[k]!) !== 0) return null;
      strides[k] = stride * done;
      done *= to[k]!;
      k--;
    }
  }
  for (; k >= 0; k--) strides[k] = 0; // ones in front
  return { ...x, strides: strides.map((s, d) => (to[d] === 1 ? 0 : s)) };
}

/** Movements of a movement: two permutations are one, reshaping back is nothing, joining neighbouring slices is a slice. */
export const moves: Readonly<Record<string, (ins: readonly Tensor[], attrs: never) => Tensor | null>> = {
  permute: ([x], { order }: { order: readonly number[] }) => {
    const s = x!.source;
    if (s.kind !== 'apply' || s.op.name !== 'permute') return null;
    const inner = (s.attrs as { order: readonly number[] }).order;
    return permute(
      s.ins[0]!,
      order.map((o) => inner[o]!),
    );
  },
  reshape: ([x], { shape }: { shape: Shape }) => {
    const s = x!.source;
    const inner = s.kind === 'view' ? s.of : s.kind === 'apply' && s.op.name === 'reshape' ? s.ins[0]! : null;
    if (inner === null) return null;
    return same(inner.shape, shape) ? inner : raw(inner, shape);
  },
  concat: ([a, b], { axis }: { axis: number }) => {
    const [x, y] = [strided(a!), strided(b!)];
    const last = a!.shape.length - 1;
    if (axis !== last || x.base !== y.base || x.base === a) return null;
    const n = a!.shape[last]! + b!.shape[last]!;
    const lead = a!.shape.slice(0, -1);
    const width = size(x.base.shape) / size(lead);
    const whole = contiguous([...lead, width]);
    const fits = (o: Strided, of: Tensor): boolean => o.strides.every((s, k) => of.shape[k] === 1 || s === whole[k]);
    if (!Number.isInteger(width) || x.offset + n > width || y.offset !== x.offset + a!.shape[last]! || !fits(x, a!) || !fits(y, b!))
      return null;
    return slice(same(x.base.shape, [...lead, width]) ? x.base : raw(x.base, [...lead, width]), last, x.offset, x.offset + n);
  },
};

/** A reshape in one step, whatever the columns: this engine makes none of them. */
function raw(x: Tensor, shape: Shape): Tensor {
  const made = reshape(x, shape);
  const s = made.source;
  return s.kind === 'apply' ? reapply(s.op, [x], { shape }, here()) : made;
}
