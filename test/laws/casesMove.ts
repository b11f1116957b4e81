// Cases for core/ops/{reduce,matmul,move,index}.ts: definitions by loops over coordinates.
import fc from 'fast-check';
import * as index from '../../core/ops/index.ts';
import { matmul } from '../../core/ops/matmul.ts';
import * as move from '../../core/ops/move.ts';
import * as reduce from '../../core/ops/reduce.ts';
import { broadcast, type Shape, size } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';
import {
  apart,
  between,
  broadcasting,
  type Case,
  type Domain,
  instance,
  operand,
  seeds,
  shapes,
  shapesOf,
  whole,
  withAxes,
  withAxis,
} from './arbitraries.ts';
import { each, get, largest, lse, type Nd, nd, reduced, total } from './naive.ts';

const real = between(-2, 2);
const plus = (axis: number, rank: number): number => (axis + rank) % rank;

type Reducer = (x: Tensor, axes?: readonly number[], keep?: boolean) => Tensor;
const reduction = (name: string, op: Reducer, f: (v: readonly number[]) => number, domain: Domain, perTerm: number): Case => ({
  name,
  of: fc.tuple(withAxes, fc.boolean(), seeds).map(([{ shape, axes }, keep, seed]) =>
    instance({
      operands: [operand(shape, domain, seed)],
      attrs: { axes, keep },
      apply: ([x]) => op(x!, axes, keep),
      naive: ([x]) => reduced(x!, axes, keep, f),
      depth: perTerm * (axes.reduce((n, a) => n * shape[a]!, 1) + 4),
      scale: ([x], y) => Math.max(largest(x!.data), largest(y.data)),
    }),
  ),
});

/** An op along one axis whose result is read at a moved coordinate. */
const along = (
  name: string,
  amount: fc.Arbitrary<number>,
  op: (x: Tensor, n: number, axis: number) => Tensor,
  naive: (x: Nd, n: number, axis: number) => Nd,
): Case => ({
  name,
  of: fc.tuple(withAxis, amount, seeds).map(([{ shape, axis }, n, seed]) =>
    instance({
      operands: [operand(shape, real, seed)],
      attrs: { axis, n },
      apply: ([x]) => op(x!, n, axis),
      naive: ([x]) => naive(x!, n, plus(axis, shape.length)),
      depth: 0,
    }),
  ),
});

export const reduceCases: readonly Case[] = [
  reduction('sum', reduce.sum, total, real, 1),
  reduction('mean', reduce.mean, (v) => total(v) / v.length, real, 1),
  reduction('maxOver', reduce.maxOver, (v) => Math.max(...v), apart, 0),
  reduction('logsumexp', reduce.logsumexp, lse, real, 32),
  reduction('logsumexp:far', reduce.logsumexp, lse, between(-300, 300), 32),
  {
    name: 'argmax',
    of: fc.tuple(withAxis, fc.boolean(), seeds).map(([{ shape, axis }, keep, seed]) =>
      instance({
        operands: [operand(shape, apart, seed)],
        attrs: { axis, keep },
        apply: ([x]) => reduce.argmax(x!, axis, keep),
        naive: ([x]) => reduced(x!, [plus(axis, shape.length)], keep, (v) => v.indexOf(Math.max(...v))),
        depth: 0,
      }),
    ),
  },
  {
    name: 'sumTo',
    of: fc.tuple(broadcasting(2), seeds).map(([[a, b], seed]) => {
      const from = broadcast(a!, b!);
      return instance({
        operands: [operand(from, real, seed)],
        attrs: a,
        apply: ([x]) => reduce.sumTo(x!, a!),
        naive: ([x]) => {
          const y = nd(a!, () => 0);
          each(from, (c) => {
            const shift = from.length - a!.length;
            const flat = a!.reduce((k, n, d) => k * n + (n === 1 ? 0 : c[d + shift]!), 0);
            y.data[flat] = y.data[flat]! + get(x!, c);
          });
          return y;
        },
        depth: size(from) + 2,
        scale: ([x]) => largest(x!.data) * 4,
      });
    }),
  },
];

const swapped = (x: Tensor): Tensor => x.T;
const product = (a: Nd, b: Nd): Nd => {
  const [m, k, n] = [a.shape.at(-2)!, a.shape.at(-1)!, b.shape.at(-1)!];
  const lead = broadcast(a.shape.slice(0, -2), b.shape.slice(0, -2));
  return nd([...lead, m, n], (c) => {
    const [batch, i, j] = [c.slice(0, -2), c.at(-2)!, c.at(-1)!];
    return total(Array.from({ length: k }, (_, l) => get(a, [...batch, i, l]) * get(b, [...batch, l, j])));
  });
};
const transposed = (x: Nd): Nd =>
  nd([...x.shape.slice(0, -2), x.shape.at(-1)!, x.shape.at(-2)!], (c) => get(x, [...c.slice(0, -2), c.at(-1)!, c.at(-2)!]));
const dims = fc.tuple(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 4 }));
const multiplied = (name: string, inner: fc.Arbitrary<number> | null): Case => ({
  name,
  of: fc
    .tuple(dims, inner ?? fc.constant(0), broadcasting(2), fc.boolean(), fc.boolean(), seeds)
    .map(([[m, small, n], long, [la, lb], ta, tb, seed]) => {
      const k = long || small;
      const [p, q] = inner === null ? [la!.slice(-2), lb!.slice(-2)] : [[], []];
      const a: Shape = [...p, ...(ta ? [k, m] : [m, k])];
      const b: Shape = [...q, ...(tb ? [n, k] : [k, n])];
      return instance({
        operands: [operand(a, real, seed), operand(b, real, seed + 1)],
        attrs: { ta, tb },
        apply: ([x, y]) => matmul(ta ? swapped(x!) : x!, tb ? swapped(y!) : y!),
        naive: ([x, y]) => product(ta ? transposed(x!) : x!, tb ? transposed(y!) : y!),
        depth: k + 2,
        scale: () => 4 * Math.sqrt(k),
      });
    }),
});
export const matmulCases: readonly Case[] = [multiplied('matmul', null), multiplied('matmul:long', fc.constantFrom(255, 256, 257, 600))];

const factors = (n: number): fc.Arbitrary<Shape> => {
  const all: Shape[] = [[n]];
  for (let a = 1; a <= n; a++) for (let b = 1; a * b <= n; b++) if (n % (a * b) === 0) all.push([a, n / a], [a, b, n / a / b]);
  return fc.constantFrom(...(n === 1 ? [[], ...all] : all));
};
const part = (shape: Shape, axis: number): fc.Arbitrary<readonly [number, number]> =>
  fc.integer({ min: 0, max: shape[axis]! - 1 }).chain((s) => fc.integer({ min: s + 1, max: shape[axis]! }).map((e) => [s, e] as const));
/** x read at c with coordinate `axis` replaced. */
const moved = (x: Nd, shape: Shape, axis: number, from: (k: number) => number): Nd =>
  nd(shape, (c) => {
    const k = from(c[axis]!);
    return k < 0 || k >= x.shape[axis]! ? 0 : get(x, c.with(axis, k));
  });
const joined = (xs: readonly Nd[], axis: number): Nd => {
  const first = xs[0]!;
  return nd(first.shape.with(axis, total(xs.map((x) => x.shape[axis]!))), (c) => {
    let k = c[axis]!;
    for (const x of xs) {
      if (k < x.shape[axis]!) return get({ shape: x.shape, data: x.data }, c.with(axis, k));
      k -= x.shape[axis]!;
    }
    throw new Error('unreachable: the coordinate lies in one of the parts');
  });
};

export const moveCases: readonly Case[] = [
  {
    name: 'reshape',
    of: fc
      .tuple(shapes, seeds, fc.boolean())
      .chain(([s, seed, open]) => factors(size(s)).map((to) => [s, to, seed, open] as const))
      .map(([s, to, seed, open]) =>
        instance({
          operands: [operand(s, real, seed)],
          attrs: to,
          apply: ([x]) => move.reshape(x!, open && to.length > 0 ? to.with(0, -1) : to),
          naive: ([x]) => ({ shape: to, data: x!.data }),
          depth: 0,
        }),
      ),
  },
  {
    name: 'permute',
    of: fc
      .tuple(shapes, seeds)
      .chain(([s, seed]) => fc.shuffledSubarray([...s.keys()], { minLength: s.length }).map((order) => [s, order, seed] as const))
      .map(([s, order, seed]) =>
        instance({
          operands: [operand(s, real, seed)],
          attrs: order,
          apply: ([x]) => move.permute(x!, order),
          naive: ([x]) =>
            nd(
              order.map((o) => s[o]!),
              (c) => {
                const from = s.map(() => 0);
                for (const [k, o] of order.entries()) from[o] = c[k]!;
                return get(x!, from);
              },
            ),
          depth: 0,
        }),
      ),
  },
  {
    name: 'slice',
    of: fc
      .tuple(withAxis, seeds)
      .chain(([{ shape, axis }, seed]) => part(shape, plus(axis, shape.length)).map((p) => ({ shape, axis, p, seed })))
      .map(({ shape, axis, p: [start, end], seed }) => {
        const a = plus(axis, shape.length);
        return instance({
          operands: [operand(shape, real, seed)],
          attrs: { axis, start, end },
          apply: ([x]) => (end === shape[a] ? move.slice(x!, axis, start - shape[a]!) : move.slice(x!, axis, start, end)),
          naive: ([x]) => moved(x!, shape.with(a, end - start), a, (k) => k + start),
          depth: 0,
        });
      }),
  },
  {
    name: 'pad',
    of: fc
      .tuple(withAxis, fc.integer({ min: 0, max: 3 }), fc.integer({ min: 0, max: 3 }), fc.integer({ min: -2, max: 2 }), seeds)
      .map(([{ shape, axis }, before, after, value, seed]) => {
        const a = plus(axis, shape.length);
        return instance({
          operands: [operand(shape, real, seed)],
          attrs: { axis, before, after, value },
          apply: ([x]) => move.pad(x!, axis, before, after, value),
          naive: ([x]) =>
            nd(shape.with(a, shape[a]! + before + after), (c) => {
              const k = c[a]! - before;
              return k < 0 || k >= shape[a]! ? value : get(x!, c.with(a, k));
            }),
          depth: 0,
        });
      }),
  },
  {
    name: 'concat',
    of: fc
      .tuple(withAxis, fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 4 }), seeds)
      .map(([{ shape, axis }, lengths, seed]) => {
        const a = plus(axis, shape.length);
        return instance({
          operands: lengths.map((n, k) => operand(shape.with(a, n), real, seed + k)),
          attrs: axis,
          apply: (xs) => move.concat(xs, axis),
          naive: (xs) => joined(xs, a),
          depth: 0,
        });
      }),
  },
  {
    name: 'stack',
    of: fc
      .tuple(shapes, fc.integer({ min: 1, max: 3 }), seeds)
      .chain(([s, n, seed]) => fc.integer({ min: -s.length - 1, max: s.length }).map((axis) => [s, n, seed, axis] as const))
      .map(([s, n, seed, axis]) => {
        const a = plus(axis, s.length + 1);
        return instance({
          operands: Array.from({ length: n }, (_, k) => operand(s, real, seed + k)),
          attrs: axis,
          apply: (xs) => move.stack(xs, axis),
          naive: (xs) => nd(s.toSpliced(a, 0, n), (c) => get(xs[c[a]!]!, c.toSpliced(a, 1))),
          depth: 0,
        });
      }),
  },
  {
    name: 'split',
    of: fc.tuple(withAxis, fc.integer({ min: 1, max: 3 }), fc.nat(), seeds).map(([{ shape, axis }, n, which, seed]) => {
      const a = plus(axis, shape.length);
      const whole = shape.with(a, shape[a]! * n);
      return instance({
        operands: [operand(whole, real, seed)],
        attrs: { axis, n, which: which % n },
        apply: ([x]) => move.split(x!, n, axis)[which % n]!,
        naive: ([x]) => moved(x!, shape, a, (k) => k + (which % n) * shape[a]!),
        depth: 0,
      });
    }),
  },
  along(
    'flip',
    fc.constant(0),
    (x, _, axis) => move.flip(x, axis),
    (x, _, axis) => moved(x, x.shape, axis, (k) => x.shape[axis]! - 1 - k),
  ),
  along('roll', fc.integer({ min: -5, max: 5 }), move.roll, (x, n, axis) =>
    moved(x, x.shape, axis, (k) => (((k - n) % x.shape[axis]!) + x.shape[axis]!) % x.shape[axis]!),
  ),
  along('repeat', fc.integer({ min: 1, max: 3 }), move.repeat, (x, n, axis) =>
    moved(x, x.shape.with(axis, x.shape[axis]! * n), axis, (k) => k % x.shape[axis]!),
  ),
  {
    name: 'broadcastTo',
    of: fc.tuple(broadcasting(2), seeds).map(([[a, b], seed]) => {
      const to = broadcast(a!, b!);
      return instance({
        operands: [operand(a!, real, seed)],
        attrs: to,
        apply: ([x]) => move.broadcastTo(x!, to),
        naive: ([x]) => nd(to, (c) => get(x!, c)),
        depth: 0,
      });
    }),
  },
];

const few = fc.integer({ min: 1, max: 4 });
export const indexCases: readonly Case[] = [
  {
    name: 'gather',
    of: fc.tuple(few, few, shapes, seeds).map(([v, d, s, seed]) =>
      instance({
        operands: [operand([v, d], real, seed), operand(s, whole(0, v), seed, 'integer')],
        apply: ([t, ids]) => index.gather(t!, ids!),
        naive: ([t, ids]) => nd([...s, d], (c) => get(t!, [get(ids!, c.slice(0, -1)), c.at(-1)!])),
        depth: 0,
      }),
    ),
  },
  {
    name: 'scatterAdd',
    of: fc.tuple(few, few, shapes, seeds).map(([v, d, s, seed]) =>
      instance({
        operands: [operand(s, whole(0, v), seed, 'integer'), operand([...s, d], real, seed)],
        attrs: v,
        apply: ([ids, values]) => index.scatterAdd(ids!, values!, v),
        naive: ([ids, values]) => {
          const y = nd([v, d], () => 0);
          each([...s, d], (c) => {
            const at = get(ids!, c.slice(0, -1)) * d + c.at(-1)!;
            y.data[at] = y.data[at]! + get(values!, c);
          });
          return y;
        },
        depth: size(s) + 1,
        scale: () => 4,
      }),
    ),
  },
  {
    name: 'oneHot',
    of: fc.tuple(few, shapes, seeds).map(([n, s, seed]) =>
      instance({
        operands: [operand(s, whole(-1, n + 1), seed, 'integer')],
        attrs: n,
        apply: ([ids]) => index.oneHot(ids!, n),
        naive: ([ids]) => nd([...s, n], (c) => (get(ids!, c.slice(0, -1)) === c.at(-1)! ? 1 : 0)),
        depth: 0,
      }),
    ),
  },
  {
    name: 'takeAlong',
    of: fc.tuple(shapesOf(1), few, seeds).map(([s, k, seed]) =>
      instance({
        operands: [operand(s, real, seed), operand(s.with(-1, k), whole(0, s.at(-1)!), seed + 1, 'integer')],
        apply: ([x, i]) => index.takeAlong(x!, i!),
        naive: ([x, i]) => nd(i!.shape, (c) => get(x!, c.with(-1, get(i!, c)))),
        depth: 0,
      }),
    ),
  },
  {
    name: 'putAlong',
    of: fc.tuple(shapesOf(1), few, seeds).map(([s, width, seed]) =>
      instance({
        operands: [operand(s, whole(0, width), seed, 'integer'), operand(s, real, seed + 1)],
        attrs: width,
        apply: ([i, values]) => index.putAlong(i!, values!, width),
        naive: ([i, values]) => {
          const y = nd(s.with(-1, width), () => 0);
          each(s, (c) => {
            const at = c.slice(0, -1).reduce((k, v, d) => k * s[d]! + v, 0) * width + get(i!, c);
            y.data[at] = y.data[at]! + get(values!, c);
          });
          return y;
        },
        depth: s.at(-1)! + 1,
        scale: () => 4,
      }),
    ),
  },
  {
    name: 'iota',
    of: few.map((n) => instance({ operands: [], attrs: n, apply: () => index.iota(n), naive: () => nd([n], ([k]) => k!), depth: 0 })),
  },
];
