// LLM.int8(): against integer arithmetic written out, its bounds, its gradient, and what happens to a network around it.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { decoder, gpt2 } from '../../nn/decoder.ts';
import { freeze, realize } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { linear } from '../../nn/linear.ts';
import { tensors } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';
import { merge } from '../../peft/merge.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { quantizeInt8 } from '../../quant/int8.ts';
import { int8Rows, llmInt8 } from '../../quant/llmInt8.ts';
import { inBlocks, packedPaths, residentBytes, unpacked } from '../../quant/quantize.ts';
import { half } from '../../quant/round.ts';

const engine = float64();
const OUT = 5;
const everything = (): boolean => true;
interface Case {
  readonly rows: number;
  readonly cols: number;
  readonly outliers: number;
  readonly threshold: number;
  readonly seed: number;
}
const cases = fc.record<Case>({
  rows: fc.integer({ min: 1, max: 6 }),
  cols: fc.integer({ min: 1, max: 20 }),
  outliers: fc.integer({ min: 0, max: 3 }),
  threshold: fc.constantFrom(0, 3, 6),
  seed: fc.integer(),
});
/** Gaussian inputs, some columns with one entry ten to a hundred times as large. */
function inputs({ rows, cols, outliers, seed }: Case): Float32Array {
  const r = rng(seed);
  const x = r.normal(rows * cols);
  for (let k = 0; k < outliers; k++) x[r.below(rows) * cols + r.below(cols)]! = (r.next() < 0.5 ? -1 : 1) * (10 + 90 * r.next());
  return x;
}
/** The paper's product: bytes times bytes, added up as whole numbers, and the outlier columns beside it. */
function naive(x: Float32Array, w: Float32Array, { rows, cols, threshold }: Case): { y: number[]; outlier: boolean[]; c: number[] } {
  const { codes, scales } = quantizeInt8(w, [OUT, cols], cols);
  const big = (v: number): boolean => threshold > 0 && Math.abs(v) >= threshold;
  const outlier = Array.from({ length: cols }, (_, j) => Array.from({ length: rows }, (_, i) => x[i * cols + j]!).some(big));
  const c: number[] = [];
  const y: number[] = [];
  for (let i = 0; i < rows; i++) {
    const row = [...x.subarray(i * cols, (i + 1) * cols)];
    c[i] = row.reduce((m, v) => (big(v) ? m : Math.max(m, Math.abs(v))), 0);
    const bytes = row.map((v, j) => (outlier[j] || c[i] === 0 ? 0 : half((127 * v) / c[i]!)));
    for (let o = 0; o < OUT; o++) {
      const whole = bytes.reduce((s, q, j) => s + q * codes[o * cols + j]!, 0);
      const beside = row.reduce((s, v, j) => s + (outlier[j] ? (v * codes[o * cols + j]! * scales[o]!) / 127 : 0), 0);
      y.push((whole * c[i]! * scales[o]!) / 127 ** 2 + beside);
    }
  }
  return { y, outlier, c };
}
const layerOf = (w: Float32Array, cols: number, threshold: number) => llmInt8(linear(leaf(w, [OUT, cols])), everything, { threshold });

describe('one layer', () => {
  test('it is bytes times bytes, with outlier columns in float beside (seeded)', () =>
    fc.assert(
      fc.asyncProperty(cases, async (c) => {
        const [x, w] = [
          inputs(c),
          rng(c.seed)
            .split('w')
            .normal(OUT * c.cols),
        ];
        const { y } = naive(x, w, c);
        const got = await engine.read(layerOf(w, c.cols, c.threshold)(leaf(x, [c.rows, c.cols]), context(1)));
        for (const [k, v] of y.entries()) expect(Math.abs(got[k]! - v)).toBeLessThanOrEqual(1e-12 * (1 + Math.abs(v)));
      }),
      { numRuns: 25 },
    ));
  test('inputs: outlier columns are exact in every row, the others within half a step of their row', () =>
    fc.assert(
      fc.asyncProperty(cases, async (c) => {
        const x = inputs(c);
        const { outlier, c: scale } = naive(x, new Float32Array(OUT * c.cols), c);
        const got = await engine.read(int8Rows(leaf(x, [c.rows, c.cols]), c.threshold));
        for (const [k, v] of x.entries()) {
          const [i, j] = [Math.floor(k / c.cols), k % c.cols];
          if (outlier[j]) expect(got[k]).toBe(v);
          else expect(Math.abs(got[k]! - v)).toBeLessThanOrEqual((scale[i]! / 254) * (1 + 1e-12));
        }
      }),
      { numRuns: 15 },
    ));
  test('with outliers kept apart the others are nearer than without', async () => {
    const c = { rows: 8, cols: 32, outliers: 3, threshold: 6, seed: 3 };
    const [x, w] = [inputs(c), rng(4).normal(OUT * 32)];
    const exact = await engine.read(linear(leaf(w, [OUT, 32]))(leaf(x, [8, 32]), context(1)));
    const off = async (threshold: number): Promise<number> => {
      const y = await engine.read(layerOf(w, 32, threshold)(leaf(x, [8, 32]), context(1)));
      return Math.hypot(...Array.from(y, (v, k) => v - exact[k]!));
    };
    expect(await off(6)).toBeLessThan(0.5 * (await off(0)));
  });
  test('a bias is added as it is; leading dimensions are rows; a row of zeros stays zeros', async () => {
    const w = rng(1).normal(OUT * 4);
    const b = rng(2).normal(OUT);
    const x = rng(3)
      .normal(2 * 3 * 4)
      .fill(0, 4, 8);
    const flat = await engine.read(layerOf(w, 4, 6)(leaf(x, [6, 4]), context(1)));
    const l = llmInt8(linear(leaf(w, [OUT, 4]), leaf(b, [OUT])), everything);
    const got = await engine.read(l(leaf(x, [2, 3, 4]), context(1)));
    for (const [k, v] of Array.from(got).entries()) expect(v).toBeCloseTo(flat[k]! + b[k % OUT]!, 12);
    expect([...flat.slice(OUT, 2 * OUT)].every((v) => v === 0)).toBe(true);
  });
  test('the gradient to x is dy·ŵ, as if x were not rounded; the weight gets none', async () => {
    const w = rng(1).normal(OUT * 8);
    const x = param(inputs({ rows: 3, cols: 8, outliers: 2, threshold: 6, seed: 5 }), [3, 8]);
    const l = layerOf(w, 8, 6);
    const dy = leaf(rng(6).normal(3 * OUT), [3, OUT]);
    const weight = unpacked(l).fields.weight as unknown as () => Tensor;
    const plain = await engine.read(weight());
    const got = await engine.read(grad(l(x, context(1)).mul(dy).sum(), [x])[0]!);
    const wanted = await engine.read(dy.matmul(leaf(plain, [OUT, 8])));
    for (const [k, v] of Array.from(wanted).entries()) expect(got[k]).toBeCloseTo(v, 12);
  });
  test('refusals', () => {
    expect(() => layerOf(new Float32Array(OUT * 4), 4, -1)).toThrow('threshold must be 0');
    expect(() => llmInt8(linear(param(new Float32Array(4), [2, 2])), everything)).toThrow('freeze(model) first');
  });
});

describe('a network', () => {
  const base = freeze(decoder(gpt2({ vocabulary: 11, width: 16, layers: 2, heads: 2, positions: 8, inner: 24 }), rng(1)));
  const matrices = [...tensors(base)].filter(({ path, tensor }) => inBlocks(path) && tensor.shape.length === 2);
  const logits = async (m: Model): Promise<number[]> => [...(await engine.read(m({ ids: leaf([1, 2, 3], [1, 3]) }, context(3))))];
  const distance = (a: readonly number[], b: readonly number[]): number => Math.hypot(...a.map((v, k) => v - b[k]!)) / Math.hypot(...b);
  test('a byte per weight and four per output; close to the base; adapters train on it and only they change', async () => {
    const packed = llmInt8(base, inBlocks);
    expect(packedPaths(packed)).toEqual(matrices.map(({ path }) => path));
    const saved = matrices.reduce((n, { tensor: { shape } }) => n + shape[0]! * (3 * shape[1]! - 4), 0);
    expect(residentBytes(base) - residentBytes(packed)).toBe(saved);
    const off = distance(await logits(packed), await logits(base));
    expect(off).toBeGreaterThan(1e-5);
    expect(off).toBeLessThan(0.05);
    const model = lora({ rank: 2, where: inBlocks })(packed);
    const loss = (m: Model, b: { ids: Tensor }): Tensor => {
      const y = m({ ids: b.ids }, context(3));
      return y.mul(y).mean();
    };
    await using t = await trainer(model, { engine, loss, optimizer: adamw({ lr: 0.01 }) });
    const batch = { ids: { data: [1, 2, 3], shape: [1, 3] } };
    const losses: number[] = [];
    for (let k = 0; k < 5; k++) losses.push((await t.step(batch)).loss);
    expect(losses.at(-1)).toBeLessThan(losses[0]!);
    const trained = await t.model();
    // Merged, the inputs are no longer rounded: what remains is that rounding.
    const merged = await realize(merge(trained), engine);
    expect(packedPaths(merged)).toEqual([]);
    const rounding = distance(await logits(merged), await logits(trained));
    expect(rounding).toBeGreaterThan(0);
    expect(rounding).toBeLessThan(0.05);
  });
  test('an adapter attached before is refused', () => {
    expect(() => llmInt8(lora({ rank: 2, where: inBlocks })(base), inBlocks)).toThrow('quantise first, then attach');
  });
});
