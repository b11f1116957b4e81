// Element by element: arithmetic, the usual functions, comparisons. Operands broadcast; each op carries its derivative.
import { num } from '../kernel.ts';
import { defineOp, type Op } from '../op.ts';
import { broadcast, type Shape, size } from '../shape.ts';
import type { Tensor } from '../tensor.ts';
import { sumTo } from './reduce.ts';

/** A number that is part of the recipe. What varies from step to step is an input instead. */
const constantOp: Op<never, { value: number }> = defineOp<never, { value: number }>({
  name: 'constant',
  inputs: [],
  shape: () => [],
  kernel: { kind: 'map', expr: ({ value }) => num(value) },
  flops: () => 0,
  vjp: () => ({}),
});
export function constant(value: number): Tensor {
  num(value); // refused here, where the stack says who asked
  return constantOp({}, { value });
}

export type Operand = Tensor | number;
export const lift = (v: Operand): Tensor => (typeof v === 'number' ? constant(v) : v);

type Pull<K extends string> = (c: Readonly<Record<K, Tensor>> & { dy: Tensor; y: Tensor }) => Tensor;

/** y = f(x); `d` gives dx. `null` where the derivative is zero everywhere it exists. */
function unary(name: string, expr: string, d: Pull<'x'> | null, helpers: readonly string[] = []): (x: Operand) => Tensor {
  const op: Op<'x', null> = defineOp<'x'>({
    name,
    inputs: ['x'],
    shape: ({ x }) => x,
    kernel: { kind: 'map', expr, helpers },
    vjp: (c) => ({ x: d === null ? null : () => d(c) }),
  });
  return (x) => op({ x: lift(x) }, null);
}

/** y = f(a, b) with broadcasting; the gradient of a stretched operand is summed back to its shape. */
function binary(name: string, expr: string, da: Pull<'a' | 'b'> | null, db: Pull<'a' | 'b'> | null): (a: Operand, b: Operand) => Tensor {
  const op: Op<'a' | 'b', null> = defineOp<'a' | 'b'>({
    name,
    inputs: ['a', 'b'],
    shape: ({ a, b }) => broadcast(a, b, name),
    kernel: { kind: 'map', expr },
    vjp: (c) => ({
      a: da === null ? null : () => sumTo(da(c), c.a.shape),
      b: db === null ? null : () => sumTo(db(c), c.b.shape),
    }),
  });
  return (a, b) => op({ a: lift(a), b: lift(b) }, null);
}

export const add = binary(
  'add',
  'a + b',
  ({ dy }) => dy,
  ({ dy }) => dy,
);
export const sub = binary(
  'sub',
  'a - b',
  ({ dy }) => dy,
  ({ dy }) => neg(dy),
);
export const mul = binary(
  'mul',
  'a * b',
  ({ b, dy }) => mul(dy, b),
  ({ a, dy }) => mul(dy, a),
);
export const div = binary(
  'div',
  'a / b',
  ({ b, dy }) => div(dy, b),
  ({ b, y, dy }) => neg(div(mul(dy, y), b)),
);
/** a to the power b, for a > 0; use `square` or products for signed bases. ∂/∂a = b·a^(b−1), ∂/∂b = aᵇ·log a */
export const pow = binary(
  'pow',
  'Math.pow(a, b)',
  ({ a, b, dy }) => mul(dy, mul(b, pow(a, sub(b, 1)))),
  ({ a, y, dy }) => mul(dy, mul(y, log(a))),
);
/** Where the operands tie, the gradient goes to the first. */
export const min = binary(
  'min',
  'Math.min(a, b)',
  ({ a, b, dy }) => mul(dy, le(a, b)),
  ({ a, b, dy }) => mul(dy, gt(a, b)),
);
export const max = binary(
  'max',
  'Math.max(a, b)',
  ({ a, b, dy }) => mul(dy, ge(a, b)),
  ({ a, b, dy }) => mul(dy, lt(a, b)),
);

// Comparisons answer 1 or 0.
export const eq = binary('eq', '(a == b ? 1.0 : 0.0)', null, null);
export const ne = binary('ne', '(a != b ? 1.0 : 0.0)', null, null);
export const lt = binary('lt', '(a < b ? 1.0 : 0.0)', null, null);
export const le = binary('le', '(a <= b ? 1.0 : 0.0)', null, null);
export const gt = binary('gt', '(a > b ? 1.0 : 0.0)', null, null);
export const ge = binary('ge', '(a >= b ? 1.0 : 0.0)', null, null);

export const neg = unary('neg', '-x', ({ dy }) => neg(dy));
export const exp = unary('exp', 'Math.exp(x)', ({ y, dy }) => mul(dy, y));
export const log = unary('log', 'Math.log(x)', ({ x, dy }) => div(dy, x));
export const sqrt = unary('sqrt', 'Math.sqrt(x)', ({ y, dy }) => div(mul(dy, 0.5), y));
/** 1/√x. d = −½·y³ */
export const rsqrt = unary('rsqrt', '(1.0 / Math.sqrt(x))', ({ y, dy }) => mul(dy, mul(-0.5, mul(y, mul(y, y)))));
export const square = unary('square', 'x * x', ({ x, dy }) => mul(dy, mul(2, x)));
/** −1/3!, 1/5!, −1/7!, … 1/17!, −1/19! */
const SERIES = [3, 5, 7, 9, 11, 13, 15, 17, 19].map(
  (n) => (n % 4 === 3 ? -1 : 1) / Array.from({ length: n }, (_, k) => k + 1).reduce((a, b) => a * b),
);
/**
 * WGSL promises sin and cos only to 2⁻¹¹ and only on [−π, π]; rotary angles need better and go further. So x = jπ + r with
 * |r| ≤ π/2 (π in three pieces, so that j·piece is exact in float32 for |j| < 2¹⁶; Cody & Waite), and the series
 * sin r = r − r³/3! + … − r¹⁹/19!, good to 3e-16. For the sine j = n is whole, for the cosine j = n + ½.
 */
const turn = (name: string, n: string, j: string, sign: string): string => `function ${name}(x) {
  const n = ${n};
  const j = ${j};
  const odd = n - 2.0 * Math.floor(0.5 * n);
  const r = ((x - j * 3.140625) - j * 0.0009670257568359375) - j * 0.00000062783295730096264;
  const z = r * r;
  const s = z * (${SERIES.reduceRight((inner, c) => (inner === '' ? `${c}` : `${c} + z * (${inner})`), '')});
  return ${sign} * (r + r * s);
}`;
export const sin = unary('sin', 'sine(x)', ({ x, dy }) => mul(dy, cos(x)), [
  turn('sine', 'Math.floor(x * 0.3183098861837907 + 0.5)', 'n', '(1.0 - 2.0 * odd)'),
]);
export const cos = unary('cos', 'cosine(x)', ({ x, dy }) => neg(mul(dy, sin(x))), [
  turn('cosine', 'Math.floor(x * 0.3183098861837907)', 'n + 0.5', '(2.0 * odd - 1.0)'),
]);
/** Written with exp(−2|x|), which cannot overflow. d = 1 − y² */
export const tanh = unary(
  'tanh',
  '(x < 0.0 ? -1.0 : 1.0) * (1.0 - Math.exp(-2.0 * Math.abs(x))) / (1.0 + Math.exp(-2.0 * Math.abs(x)))',
  ({ y, dy }) => mul(dy, sub(1, mul(y, y))),
);
/** d = y(1 − y) */
export const sigmoid = unary('sigmoid', '(x < 0.0 ? Math.exp(-Math.abs(x)) : 1.0) / (1.0 + Math.exp(-Math.abs(x)))', ({ y, dy }) =>
  mul(dy, mul(y, sub(1, y))),
);
/** log(1 + eˣ) without overflow. d = σ(x) */
export const softplus = unary('softplus', 'Math.max(x, 0.0) + Math.log(1.0 + Math.exp(-Math.abs(x)))', ({ x, dy }) => mul(dy, sigmoid(x)));
export const abs = unary('abs', 'Math.abs(x)', ({ x, dy }) => mul(dy, sign(x)));
export const sign = unary('sign', '(x > 0.0 ? 1.0 : 0.0) - (x < 0.0 ? 1.0 : 0.0)', null);
export const floor = unary('floor', 'Math.floor(x)', null);
export const relu = unary('relu', 'Math.max(x, 0.0)', ({ x, dy }) => mul(dy, gt(x, 0)));
/** x·σ(x). d = σ + xσ(1−σ) */
export const silu = unary('silu', 'x * (x < 0.0 ? Math.exp(-Math.abs(x)) : 1.0) / (1.0 + Math.exp(-Math.abs(x)))', ({ x, y, dy }) => {
  const s = sigmoid(x);
  return mul(dy, add(s, mul(y, sub(1, s))));
});

/**
 * erf(x) = 2/√π · e^(−x²) · Σ 2ⁿx²ⁿ⁺¹ / (2n+1)!!, a series of positive terms, so float32 keeps its digits too.
 * |x| is cut at 4, where 1 − erf is 1.5e-8.
 */
const erfHelper = `function erf(x) {
  const z = Math.min(Math.abs(x), 4.0);
  let term = z;
  let total = z;
  for (let n = 0; n < 80; n++) { term = term * 2.0 * z * z / (2.0 * n + 3.0); total = total + term; }
  return (x < 0.0 ? -1.0 : 1.0) * total * 1.1283791670955126 * Math.exp(-z * z);
}`;
/** d = 2/√π · e^(−x²) */
export const erf = unary('erf', 'erf(x)', ({ x, dy }) => mul(dy, mul(2 / Math.sqrt(Math.PI), exp(neg(mul(x, x))))), [erfHelper]);
/** x·Φ(x), Φ(x) = ½(1 + erf(x/√2)). */
export const gelu = unary('gelu', '0.5 * x * (1.0 + erf(0.7071067811865476 * x))', ({ x, dy }) => mul(dy, geluSlope(x)), [erfHelper]);
/** Its derivative, Φ + x·φ. d = φ(2 − x²), φ = e^(−x²/2)/√(2π) */
const geluSlope = unary(
  'geluSlope',
  '0.5 * (1.0 + erf(0.7071067811865476 * x)) + 0.3989422804014327 * x * Math.exp(-0.5 * x * x)',
  ({ x, dy }) => mul(dy, mul(mul(1 / Math.sqrt(2 * Math.PI), exp(mul(-0.5, square(x)))), sub(2, square(x)))),
  [erfHelper],
);
/** The tanh form of GPT-2: ½x(1 + tanh u), u = √(2/π)(x + 0.044715x³), which is x·σ(2u). */
export const geluTanh = unary(
  'geluTanh',
  'x / (1.0 + Math.exp(-1.5957691216057308 * Math.min(Math.max(x + 0.044715 * x * x * x, -40.0), 40.0)))',
  ({ x, dy }) => mul(dy, geluTanhSlope(x)),
);
/** Its derivative, s + x·s(1 − s)·g with s = σ(2u) and g = 2u′. d = s(1 − s)·(2g + x(1 − 2s)g² + x·g′) */
const geluTanhSlope = unary(
  'geluTanhSlope',
  '(1.0 + x * (1.5957691216057308 + 0.21406444881780076 * x * x) / (1.0 + Math.exp(1.5957691216057308 * Math.min(Math.max(x + 0.044715 * x * x * x, -40.0), 40.0)))) / (1.0 + Math.exp(-1.5957691216057308 * Math.min(Math.max(x + 0.044715 * x * x * x, -40.0), 40.0)))',
  ({ x, dy }) => {
    const k = 2 * Math.sqrt(2 / Math.PI);
    const s = sigmoid(mul(k, add(x, mul(0.044715, mul(x, square(x))))));
    const g = mul(k, add(1, mul(3 * 0.044715, square(x))));
    const bend = add(mul(x, mul(sub(1, mul(2, s)), square(g))), mul(square(x), 6 * 0.044715 * k));
    return mul(dy, mul(mul(s, sub(1, s)), add(mul(2, g), bend)));
  },
);

const whereOp: Op<'test' | 'a' | 'b', null> = defineOp<'test' | 'a' | 'b'>({
  name: 'where',
  inputs: ['test', 'a', 'b'],
  shape: ({ test, a, b }) => broadcast(test, broadcast(a, b, 'where'), 'where'),
  kernel: { kind: 'map', expr: '(test != 0.0 ? a : b)' },
  vjp: ({ test, a, b, dy }) => ({
    test: null,
    a: () => sumTo(where(test, dy, 0), a.shape),
    b: () => sumTo(where(test, 0, dy), b.shape),
  }),
});
/** `a` where `test` is not 0, else `b`. */
export const where = (test: Tensor, a: Operand, b: Operand): Tensor => whereOp({ test, a: lift(a), b: lift(b) }, null);

/** x limited to [low, high]; the gradient is 0 outside and passes inside and on the borders. */
export const clamp = (x: Tensor, low: number, high: number): Tensor => min(max(x, low), high);

/** The value without its history: its gradient is not followed. */
export const stopGradient = unary('stopGradient', 'x', null);

/** A tensor filled with one number. */
export function full(shape: Shape, value: number): Tensor {
  num(value);
  return size(shape) === 1 && shape.length === 0 ? constant(value) : fillOp({}, { shape, value });
}
const fillOp: Op<never, { shape: Shape; value: number }> = defineOp<never, { shape: Shape; value: number }>({
  name: 'full',
  inputs: [],
  shape: (_, { shape }) => shape,
  kernel: { kind: 'map', expr: ({ value }) => num(value) },
  flops: () => 0,
  vjp: () => ({}),
});
