// Laws of reverse mode: linearity, accumulation, pruning, stopGradient, second order, composites without a derivative.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad, pullback } from '../../core/grad.ts';
import { defineOp, type Op } from '../../core/op.ts';
import { attention, crossEntropy, layerNorm, softmax } from '../../core/ops/fused.ts';
import { exp, floor, gelu, gt, mul, stopGradient, tanh } from '../../core/ops/map.ts';
import { matmul } from '../../core/ops/matmul.ts';
import { sum } from '../../core/ops/reduce.ts';
import { rng } from '../../core/rng.ts';
import { schedule } from '../../core/schedule.ts';
import { named } from '../../core/scope.ts';
import { type Shape, same, size } from '../../core/shape.ts';
import { input, leaf, param, paramOf, stateOf, type Tensor, topological } from '../../core/tensor.ts';
import { seeds } from './arbitraries.ts';
import { largest } from './naive.ts';

const engine = float64();
const normal = (seed: number, shape: Shape): Float64Array => Float64Array.from(rng(seed).normal(size(shape), 0.7));
const random = (seed: number, shape: Shape): Tensor => leaf(normal(seed, shape), shape);
const weight = (seed: number, shape: Shape): Tensor => param(normal(seed, shape), shape);
const close = (got: ArrayLike<number>, want: ArrayLike<number>, tolerance = 1e-10): void => {
  expect(got.length).toBe(want.length);
  const limit = tolerance * Math.max(1, largest(want));
  for (let k = 0; k < want.length; k++)
    if (!(Math.abs(got[k]! - want[k]!) <= limit)) expect.fail(`[${k}]: got ${got[k]}, want ${want[k]} within ${limit}`);
};
const nodes = (...roots: Tensor[]): Tensor[] => topological(roots);
const applied = (ts: readonly Tensor[]): Tensor[] => ts.filter((t) => t.source.kind === 'apply');

/** y = a·b, counting which derivatives are asked for. */
function counted(): { op: (a: Tensor, b: Tensor) => Tensor; asked: { a: number; b: number } } {
  const asked = { a: 0, b: 0 };
  const op: Op<'a' | 'b', null> = defineOp<'a' | 'b'>({
    name: 'counted',
    inputs: ['a', 'b'],
    shape: ({ a, b }) => [a[0]!, b[1]!],
    kernel: { kind: 'composite', of: ({ a, b }) => matmul(a, b) },
    vjp: ({ a, b, dy }) => ({
      a: () => {
        asked.a++;
        return matmul(dy, b.T);
      },
      b: () => {
        asked.b++;
        return matmul(a.T, dy);
      },
    }),
  });
  return { op: (a, b) => op({ a, b }, null), asked };
}

describe('accumulation', () => {
  it('is linear: ∇(αf + βg) = α∇f + β∇g', () =>
    fc.assert(
      fc.asyncProperty(
        seeds,
        fc.double({ min: -3, max: 3, noNaN: true }),
        fc.double({ min: -3, max: 3, noNaN: true }),
        async (seed, a, b) => {
          const x = random(seed, [3, 4]);
          const f = sum(tanh(matmul(x, random(seed + 1, [4, 2]))));
          const g = sum(mul(softmax(x), x));
          const [both] = grad(f.mul(a).add(g.mul(b)), [x]);
          const [df, dg] = [grad(f, [x])[0]!, grad(g, [x])[0]!];
          close(await engine.read(both!), await engine.read(df.mul(a).add(dg.mul(b))));
        },
      ),
      { numRuns: 20 },
    ));

  it('adds the paths of a diamond', async () => {
    const x = random(1, [5]);
    const [d] = grad(sum(x.mul(x).add(x.mul(exp(x)))), [x]); // 2x + eˣ + xeˣ
    close(
      await engine.read(d!),
      normal(1, [5]).map((v) => 2 * v + Math.exp(v) + v * Math.exp(v)),
    );
  });

  it('is linear in the number of nodes when diamonds stack: 2³⁰ paths, a hundred nodes', async () => {
    const x = random(2, [2]);
    let y = x;
    for (let k = 0; k < 30; k++) y = y.add(y);
    const [d] = grad(sum(y), [x]);
    expect(nodes(d!).length).toBeLessThan(100);
    close(await engine.read(d!), [2 ** 30, 2 ** 30]);
  });

  it('adds both uses of one operand', async () => {
    const x = random(3, [3, 3]);
    const w = random(4, [3, 3]);
    const [d] = grad(sum(mul(matmul(x, x), w)), [x]); // wxᵀ + xᵀw
    close(await engine.read(d!), await engine.read(matmul(w, x.T).add(matmul(x.T, w))));
  });

  it('takes two tensors of one parameter for one variable', async () => {
    const a = weight(5, [4]);
    const b = stateOf(paramOf(a)!);
    const other = weight(5, [4]); // equal numbers, another parameter
    const [da, db, dc] = grad(sum(a.mul(b).mul(other)), [a, b, other]);
    const v = normal(5, [4]);
    close(
      await engine.read(da!),
      v.map((e) => 2 * e * e),
    );
    expect(db).toBe(da);
    close(
      await engine.read(dc!),
      v.map((e) => e * e),
    );
  });

  it('answers zeros of its shape for what the loss does not reach', async () => {
    const [x, far] = [random(6, [2]), random(7, [3, 2])];
    const [, d] = grad(sum(x), [x, far]);
    expect(d!.shape).toEqual([3, 2]);
    close(await engine.read(d!), new Float64Array(6));
  });

  it('differentiates with respect to a value on the way, and the loss itself', async () => {
    const x = random(8, [3]);
    const h = exp(x);
    const loss = sum(h.mul(h));
    const [dh, dl] = grad(loss, [h, loss]);
    close(await engine.read(dh!), await engine.read(h.mul(2)));
    close(await engine.read(dl!), [1]);
  });

  it('survives a chain of ten thousand ops', async () => {
    let y = random(9, [1]);
    const x = y;
    for (let k = 0; k < 10_000; k++) y = y.mul(1.0001);
    close(await engine.read(grad(sum(y), [x])[0]!), [1.0001 ** 10_000], 1e-9);
  });
});

describe('pruning', () => {
  const shapes = { x: [6, 5], first: [5, 7], second: [7, 3], third: [3, 4] } as const;
  const isWeightGradient = (t: Tensor): boolean =>
    t.at.phase === 'backward' && [shapes.first, shapes.second, shapes.third].some((s) => same(t.shape, s) || same(t.shape, s.toReversed()));

  it('writes no gradient of a frozen weight, yet dx flows through frozen layers', async () => {
    const make = (bias: Tensor): Tensor => {
      const h = gelu(matmul(random(1, shapes.x), random(2, shapes.first)).add(bias));
      return sum(tanh(matmul(matmul(h, random(3, shapes.second)), random(4, shapes.third))));
    };
    const bias = weight(5, [7]);
    const [d] = grad(make(bias), [bias]);
    expect(nodes(d!).filter(isWeightGradient)).toEqual([]);
    expect(schedule([d!]).steps.filter((s) => isWeightGradient(s.node))).toEqual([]);
    const at = normal(5, [7]);
    const h = 1e-5;
    const got = await engine.read(d!);
    for (let k = 0; k < 7; k++) {
      const moved = (e: number): Promise<number> => engine.item(make(leaf(at.with(k, at[k]! + e), [7])));
      close([got[k]!], [((await moved(h)) - (await moved(-h))) / (2 * h)], 1e-6);
    }
  });

  it('calls no thunk that leads nowhere wanted', () => {
    const { op, asked } = counted();
    const [w1, w2] = [random(1, [4, 4]), weight(2, [4, 4])];
    grad(sum(op(op(random(3, [2, 4]), w1), w2)), [w2]);
    expect(asked).toEqual({ a: 0, b: 1 });
    grad(sum(op(op(random(3, [2, 4]), w1), w2)), [w1]);
    expect(asked).toEqual({ a: 1, b: 2 }); // one dx through w2, one weight gradient of w1
  });

  it('calls none inside a composite that has no derivative of its own, either', () => {
    const { op, asked } = counted();
    const twice: Op<'x' | 'w', null> = defineOp<'x' | 'w'>({
      name: 'twice',
      inputs: ['x', 'w'],
      shape: ({ x }) => x,
      kernel: { kind: 'composite', of: ({ x, w }) => op(op(x, w), w) },
    });
    grad(sum(twice({ x: random(1, [2, 4]), w: random(2, [4, 4]) }, null)), [random(3, [1])]);
    expect(asked).toEqual({ a: 0, b: 0 });
    const x = weight(1, [2, 4]);
    grad(sum(twice({ x, w: random(2, [4, 4]) }, null)), [x]);
    expect(asked).toEqual({ a: 2, b: 0 });
  });

  it('visits no earlier block when only the last one trains', () => {
    const frozen = (seed: number): Tensor => random(seed, [4, 4]);
    const block = (h: Tensor, w: Tensor): Tensor => h.add(gelu(matmul(layerNorm(h, random(8, [4]), random(9, [4])), w)));
    const last = weight(3, [4, 4]);
    const y = [frozen(1), frozen(2), last].reduce((h, w, k) => named(`blocks.${k}`, () => block(h, w)), random(7, [3, 4]));
    const [d] = grad(sum(y), [last]);
    const visited = new Set(applied(nodes(d!)).flatMap((t) => (t.at.phase === 'backward' ? [t.at.path] : [])));
    expect([...visited].filter((p) => p !== '')).toEqual(['blocks.2']);
  });
});

describe('stopGradient', () => {
  it('keeps the value and ends the history', async () => {
    const x = random(1, [3]);
    close(await engine.read(stopGradient(exp(x))), await engine.read(exp(x)));
    const [d] = grad(sum(stopGradient(exp(x)).mul(x)), [x]);
    close(await engine.read(d!), await engine.read(exp(x)));
  });
  it('makes a straight-through estimator', async () => {
    const x = random(2, [4]);
    const hard = x.add(stopGradient(gt(x, 0).sub(x)));
    const w = random(3, [4]);
    close(
      await engine.read(hard),
      [...normal(2, [4])].map((v) => Number(v > 0)),
    );
    close(await engine.read(grad(sum(hard.mul(w)), [x])[0]!), normal(3, [4]));
  });
  it('ops with no derivative send zeros', async () => {
    const x = random(4, [4]);
    close(await engine.read(grad(sum(floor(x)), [x])[0]!), new Float64Array(4));
  });
});

describe('reverse over reverse', () => {
  const targets = leaf([1, 0, 2], [3]);
  const loss = (w: Tensor): Tensor => {
    const x = layerNorm(matmul(random(1, [3, 4]), w), random(2, [4]), random(3, [4]));
    const q = x.reshape(1, 3, 2, 2).permute(0, 2, 1, 3);
    const h = attention(q, tanh(q), q, { causal: true }).permute(0, 2, 1, 3).reshape(3, 4);
    return crossEntropy(matmul(gelu(h), random(4, [4, 3])), targets);
  };
  it('gives Hessian–vector products that central differences of the gradient confirm, and a symmetric Hessian', async () => {
    const at = normal(5, [4, 4]);
    const [u, v] = [normal(6, [4, 4]), normal(7, [4, 4])];
    const w = input('w', [4, 4]);
    const [g] = grad(loss(w), [w]);
    const hv = (dir: Float64Array): Tensor => grad(sum(mul(g!, leaf(dir, [4, 4]))), [w])[0]!;
    const got = await engine.read(hv(v), { w: at });
    const h = 1e-5;
    const side = (e: number): Promise<ArrayLike<number>> => engine.read(g!, { w: at.map((x, k) => x + e * v[k]!) });
    const [up, down] = [await side(h), await side(-h)];
    close(
      got,
      Float64Array.from(up, (x, k) => (x - down[k]!) / (2 * h)),
      1e-6,
    );
    const hu = await engine.read(hv(u), { w: at });
    const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number => Array.from(a).reduce((s, x, k) => s + x * b[k]!, 0);
    close([dot(u, got)], [dot(v, hu)], 1e-10);
  });
  it('reaches the third derivative', async () => {
    const x = random(8, [3]);
    const d = (y: Tensor): Tensor => grad(sum(y), [x])[0]!;
    const v = normal(8, [3]);
    close(
      await engine.read(d(d(d(x.mul(x).mul(x).mul(exp(x)))))),
      v.map((e) => (e ** 3 + 9 * e ** 2 + 18 * e + 6) * Math.exp(e)),
    );
  });
});

describe('composites without a derivative', () => {
  /** a·tanh(b) + b, written as an op with a composition only. */
  const plain = (a: Tensor, b: Tensor): Tensor => a.mul(tanh(b)).add(b);
  const op: Op<'a' | 'b', null> = defineOp<'a' | 'b'>({
    name: 'composed',
    inputs: ['a', 'b'],
    shape: ({ a }) => a,
    kernel: { kind: 'composite', of: ({ a, b }) => plain(a, b) },
  });
  const same2 = async (make: (f: typeof plain, x: Tensor) => Tensor): Promise<void> => {
    const x = random(1, [4]);
    const y = make((a, b) => op({ a, b }, null), x);
    const want = make(plain, x);
    close(await engine.read(y), await engine.read(want));
    close(await engine.read(grad(sum(y), [x])[0]!), await engine.read(grad(sum(want), [x])[0]!));
  };
  it('may have an input that depends on another', () => same2((f, x) => f(x, exp(x))));
  it('may be given one tensor twice', () => same2((f, x) => f(x, x)));
  it('may be nested', () => same2((f, x) => f(f(x, exp(x)), f(x, x))));
  it('may be given one parameter as two tensors', async () => {
    const a = weight(1, [4]);
    const b = stateOf(paramOf(a)!);
    const [got] = grad(sum(op({ a, b }, null)), [a]);
    const [want] = grad(sum(plain(a, b)), [a]);
    close(await engine.read(got!), await engine.read(want!));
  });
  it('may be the identity', async () => {
    const id: Op<'x', null> = defineOp<'x'>({
      name: 'same',
      inputs: ['x'],
      shape: ({ x }) => x,
      kernel: { kind: 'composite', of: ({ x }) => x },
    });
    const x = random(2, [3]);
    close(await engine.read(grad(sum(id({ x }, null).mul(id({ x }, null))), [x])[0]!), await engine.read(x.mul(2)));
  });
  it('pullback stops at `until`', async () => {
    const x = random(3, [3]);
    const h = exp(x);
    const y = h.mul(h);
    const [dx, dh] = pullback(y, random(4, [3]), [x, h], [h]);
    close(await engine.read(dx!), new Float64Array(3));
    close(await engine.read(dh!), await engine.read(h.mul(2).mul(random(4, [3]))));
  });
});
