// Softmax, norms and GELU on the simd engine at widths where its vectors end in every way, against double precision.
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import type { Engine } from '../../core/engine.ts';
import { float64 } from '../../core/engines/float64.ts';
import { simd } from '../../core/engines/simd.ts';
import { pullback } from '../../core/grad.ts';
import { layerNorm, rmsNorm, softmax } from '../../core/ops/fused.ts';
import { geluTanh } from '../../core/ops/map.ts';
import type { Numbers } from '../../core/plan.ts';
import { rng } from '../../core/rng.ts';
import { schedule } from '../../core/schedule.ts';
import { type Shape, size } from '../../core/shape.ts';
import { opening } from '../../core/simd/native.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { largest } from '../laws/naive.ts';

type Op = (x: Tensor, g: Tensor, b: Tensor) => Tensor;
const ops: readonly (readonly [string, Op, readonly string[]])[] = [
  ['softmax', (x) => softmax(x), ['softmax', 'softmaxGrad']],
  ['layerNorm', (x, g, b) => layerNorm(x, g, b), ['layerNorm', 'layerNormGrad', 'layerNormGain']],
  ['rmsNorm', (x, g) => rmsNorm(x, g), ['rmsNorm', 'rmsNormGrad', 'rmsNormGain']],
  ['geluTanh', (x) => geluTanh(x), []],
];
function program(op: Op, rows: number, width: number, seed: number): Tensor[] {
  // Neighbours lie at least 1 apart: without spread a norm is too steep for float32.
  const random = (name: string, shape: Shape): Tensor =>
    leaf(
      Float64Array.from(rng(seed).split(name).uniform(size(shape), 0.5, 2), (u, k) => (k % 2 === 0 ? u : -u)),
      shape,
    );
  const [x, g, b] = [random('x', [rows, width]), random('g', [width]), random('b', [width])];
  const y = op(x, g, b);
  return [y, ...pullback(y, random('dy', y.shape), [x, g, b])];
}
const run = async (e: Engine, roots: readonly Tensor[]): Promise<Numbers[]> => {
  const store = e.store();
  const got = await (await e.compile(store, { outputs: Object.fromEntries(roots.map((t, k) => [`t${k}`, t])) })).run();
  store.close();
  return roots.map((_, k) => got[`t${k}`]!);
};

describe('rows on the simd engine', () => {
  const oracle = float64();
  const engines = [simd({ threads: 1 }), simd({ threads: 2 }), simd({ threads: 3 }), simd({ threads: 1, relaxed: false })] as const;
  afterAll(async () => {
    for (const e of engines) await (await e).close();
  });
  it.each(ops)(
    '%s: kernels of its own, double precision’s numbers, the same bits on one, two and three threads',
    async (name, op, kernels) => {
      const names = schedule(program(op, 40, 16, 1), opening).steps.map((st) => st.kernel.name);
      for (const k of kernels) expect(names).toContain(k);
      await fc.assert(
        fc.asyncProperty(fc.integer({ min: 1, max: 70 }), fc.integer({ min: 2, max: 40 }), fc.nat(1e6), async (rows, width, seed) => {
          const roots = program(op, rows, width, seed);
          const want = await run(oracle, roots);
          const [one, two, three, plain] = await Promise.all(engines.map(async (e) => run(await e, roots)));
          expect(two).toEqual(one);
          expect(three).toEqual(one);
          for (const got of [one!, plain!])
            for (const [k, w] of want.entries()) {
              const limit = 1e-5 * Math.max(1, largest(w));
              for (const [i, v] of w.entries())
                if (!(Math.abs(v - got[k]![i]!) <= limit)) expect.fail(`${name}: table ${k}, element ${i} is ${got[k]![i]}, not ${v}`);
            }
        }),
        { numRuns: 5 },
      );
    },
  );
});
