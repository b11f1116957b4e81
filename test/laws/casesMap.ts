// Cases for core/ops/map.ts: every op with its domain and its definition in plain numbers.
import fc from 'fast-check';
import * as map from '../../core/ops/map.ts';
import type { Tensor } from '../../core/tensor.ts';
import {
  awayFromZero,
  between,
  broadcasting,
  type Case,
  type Domain,
  grid,
  instance,
  type Operand,
  operand,
  seeds,
  shapes,
  whole,
} from './arbitraries.ts';
import { elementwise, erf, largest, nd } from './naive.ts';

const unary = (name: string, op: (x: Tensor) => Tensor, f: (x: number) => number, domain: Domain, depth: number): Case => ({
  name,
  of: fc
    .tuple(shapes, seeds)
    .map(([s, seed]) =>
      instance({ operands: [operand(s, domain, seed)], apply: ([x]) => op(x!), naive: ([x]) => elementwise(f, x!), depth }),
    ),
});
const binary = (
  name: string,
  op: (a: Tensor, b: Tensor) => Tensor,
  f: (a: number, b: number) => number,
  [da, db]: readonly [Domain, Domain],
  depth: number,
  kind: Operand['kind'] = 'real',
): Case => ({
  name,
  of: fc.tuple(broadcasting(2), seeds).map(([[a, b], seed]) =>
    instance({
      operands: [operand(a!, da, seed, kind), operand(b!, db, seed + 1, kind)],
      apply: ([x, y]) => op(x!, y!),
      naive: ([x, y]) => elementwise(f, x!, y!),
      depth,
    }),
  ),
});
/** A comparison at real operands that differ (derivative 0) and at whole ones that tie. */
const comparison = (name: string, op: (a: Tensor, b: Tensor) => Tensor, f: (a: number, b: number) => boolean): Case[] => [
  binary(name, op, (a, b) => Number(f(a, b)), [grid(0), grid(0.25)], 0),
  binary(`${name}:ties`, op, (a, b) => Number(f(a, b)), [whole(-1, 2), whole(-1, 2)], 0, 'integer'),
];

const real = between(-2, 2);
const positive = between(0.3, 3);

export const mapCases: readonly Case[] = [
  binary('add', map.add, (a, b) => a + b, [real, real], 1),
  binary('sub', map.sub, (a, b) => a - b, [real, real], 1),
  binary('mul', map.mul, (a, b) => a * b, [real, real], 1),
  binary('div', map.div, (a, b) => a / b, [real, awayFromZero(0.4)], 4),
  binary('pow', map.pow, (a, b) => a ** b, [positive, real], 32),
  binary('min', map.min, (a, b) => (a + b - Math.abs(a - b)) / 2, [grid(0), grid(0.25)], 0),
  binary('max', map.max, (a, b) => (a + b + Math.abs(a - b)) / 2, [grid(0), grid(0.25)], 0),
  ...comparison('eq', map.eq, (a, b) => a === b),
  ...comparison('ne', map.ne, (a, b) => a !== b),
  ...comparison('lt', map.lt, (a, b) => a < b),
  ...comparison('le', map.le, (a, b) => a <= b),
  ...comparison('gt', map.gt, (a, b) => a > b),
  ...comparison('ge', map.ge, (a, b) => a >= b),
  unary('neg', map.neg, (x) => 0 - x, real, 0),
  unary('exp', map.exp, (x) => Math.E ** x, real, 16),
  unary('log', map.log, (x) => Math.log2(x) * Math.LN2, positive, 8),
  unary('sqrt', map.sqrt, (x) => x ** 0.5, positive, 4),
  unary('rsqrt', map.rsqrt, (x) => x ** -0.5, positive, 8),
  unary('square', map.square, (x) => x ** 2, real, 1),
  unary('sin', map.sin, (x) => Math.cos(x - Math.PI / 2), real, 8),
  unary('cos', map.cos, (x) => Math.sin(x + Math.PI / 2), real, 8),
  unary('sin:far', map.sin, (x) => Math.sin(x), between(-9000, 9000), 16),
  unary('cos:far', map.cos, (x) => Math.cos(x), between(-9000, 9000), 16),
  unary('tanh', map.tanh, (x) => Math.tanh(x), real, 32),
  unary('tanh:far', map.tanh, (x) => Math.tanh(x), between(-90, 90), 32),
  unary('sigmoid', map.sigmoid, (x) => 0.5 * (1 + Math.tanh(x / 2)), real, 32),
  unary('sigmoid:far', map.sigmoid, (x) => 0.5 * (1 + Math.tanh(x / 2)), between(-90, 90), 256),
  unary('softplus', map.softplus, (x) => Math.log1p(Math.exp(x)), real, 32),
  unary('softplus:far', map.softplus, (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))), between(-90, 90), 32),
  unary('abs', map.abs, (x) => (x < 0 ? 0 - x : x), awayFromZero(), 0),
  unary('sign', map.sign, (x) => (x < 0 ? -1 : 1), awayFromZero(), 0),
  unary(
    'floor',
    map.floor,
    (x) => x - (((x % 1) + 1) % 1),
    (u) => Math.floor(8 * u - 4) + 0.2 + 0.6 * ((u * 97) % 1),
    0,
  ),
  unary('relu', map.relu, (x) => (x + Math.sqrt(x * x)) / 2, awayFromZero(), 0),
  unary('silu', map.silu, (x) => x / (1 + Math.exp(-x)), real, 32),
  unary('silu:far', map.silu, (x) => x / (1 + Math.exp(-x)), between(-80, 80), 256),
  unary('erf', map.erf, erf, between(-3.5, 3.5), 100),
  unary('gelu', map.gelu, (x) => (x / 2) * (1 + erf(x / Math.SQRT2)), between(-3.5, 3.5), 100),
  unary(
    'geluTanh',
    map.geluTanh,
    (x) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
    between(-3.5, 3.5),
    64,
  ),
  {
    name: 'where',
    of: fc.tuple(broadcasting(3), seeds).map(([[t, a, b], seed]) =>
      instance({
        operands: [operand(t!, whole(-1, 2), seed, 'integer'), operand(a!, real, seed + 1), operand(b!, real, seed + 2)],
        apply: ([test, x, y]) => map.where(test!, x!, y!),
        naive: ([test, x, y]) => elementwise((c, p, q) => (c === 0 ? q! : p!), test!, x!, y!),
        depth: 0,
      }),
    ),
  },
  unary(
    'clamp',
    (x) => map.clamp(x, -1, 0.75),
    (x) => [x, -1, 0.75].sort((a, b) => a - b)[1]!, // the middle one
    (u) => [-1.8, -0.9, 0.1, 0.6, 0.9][Math.floor(5 * u)]! + 0.05 * ((u * 97) % 1),
    0,
  ),
  {
    name: 'stopGradient', // a value whose derivative is declared 0 although it is not: its gradient has a law of its own in grad.test.ts
    of: fc
      .tuple(shapes, seeds)
      .map(([s, seed]) =>
        instance({ operands: [operand(s, real, seed, 'stopped')], apply: ([x]) => map.stopGradient(x!), naive: ([x]) => x!, depth: 0 }),
      ),
  },
  {
    name: 'constant',
    of: fc.double({ min: -1e6, max: 1e6, noNaN: true }).map((v) =>
      instance({
        operands: [],
        attrs: v,
        apply: () => map.constant(v),
        naive: () => nd([], () => v),
        depth: 1,
        scale: () => Math.abs(v),
      }),
    ),
  },
  {
    name: 'lift',
    of: fc.tuple(fc.integer({ min: -99, max: 99 }), shapes, seeds).map(([v, s, seed]) =>
      instance({
        operands: [operand(s, real, seed)],
        attrs: v,
        apply: ([x]) => map.lift(map.add(map.lift(x!), map.lift(v))),
        naive: ([x]) => elementwise((p) => p + v, x!),
        depth: 1,
      }),
    ),
  },
  {
    name: 'full',
    of: fc.tuple(shapes, fc.float({ min: -9, max: 9, noNaN: true })).map(([s, v]) =>
      instance({
        operands: [],
        attrs: [s, v],
        apply: () => map.full(s, v),
        naive: () => nd(s, () => v),
        depth: 1,
        scale: (_, y) => largest(y.data),
      }),
    ),
  },
];
