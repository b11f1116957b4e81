// Blockwise int8: error bounds and symmetries of the codes, and what a model built on them computes, stores and trains.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { account } from '../../core/account.ts';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import { type Shape, size } from '../../core/shape.ts';
import { input, leaf, type Param, paramOf, stateOf, type Tensor, topological } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { decoder, gpt2, llama } from '../../nn/decoder.ts';
import { freeze, realize, unfreeze, withValues } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { params, tensors } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';
import { merge } from '../../peft/merge.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { dequantize, dequantizeInt8, int8, quantizeInt8 } from '../../quant/int8.ts';
import { inBlocks, packedPaths, quantize, residentBytes, unpacked } from '../../quant/quantize.ts';

const engine = float64();
const table = fc.record({
  shape: fc.tuple(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 150 })),
  block: fc.constantFrom(1, 7, 16, 64),
  seed: fc.integer(),
  exponent: fc.integer({ min: -30, max: 30 }),
});
type Table = { shape: [number, number]; block: number; seed: number; exponent: number };
/** Gaussian numbers of any magnitude, with some zeros and repeated maxima. */
const numbers = ({ shape, seed, exponent }: Table): Float32Array => {
  const r = rng(seed);
  return r.normal(size(shape), 2 ** exponent).map((v) => (r.next() < 0.1 ? 0 : v));
};
/** Every (row, block) of a table, with the places of its elements. */
function* blocks([rows, cols]: Shape, block: number): Generator<readonly [scale: number, places: number[]]> {
  const per = Math.ceil(cols! / block);
  for (let r = 0; r < rows!; r++)
    for (let b = 0; b < per; b++)
      yield [r * per + b, Array.from({ length: Math.min(block, cols! - b * block) }, (_, k) => r * cols! + b * block + k)];
}

describe('codes', () => {
  test('|w − ŵ| ≤ c/254 in every block, the scale is its largest magnitude, and that one is exact', () => {
    fc.assert(
      fc.property(table, (t) => {
        const w = numbers(t);
        const q = quantizeInt8(w, t.shape, t.block);
        const back = dequantizeInt8(q, t.shape, t.block);
        for (const [k, places] of blocks(t.shape, t.block)) {
          const c = Math.max(...places.map((i) => Math.abs(w[i]!)));
          expect(q.scales[k]).toBe(c);
          for (const i of places) {
            expect(Math.abs(w[i]! - back[i]!)).toBeLessThanOrEqual(c / 254 + c * 2 ** -24); // rounding ŵ to float32
            if (Math.abs(w[i]!) === c) expect(back[i]).toBe(w[i]);
            if (w[i] === 0) expect(back[i]).toBe(0);
          }
        }
      }),
    );
  });
  test('quantising what was unpacked gives the same codes and scales', () => {
    fc.assert(
      fc.property(table, (t) => {
        const q = quantizeInt8(numbers(t), t.shape, t.block);
        expect(quantizeInt8(dequantizeInt8(q, t.shape, t.block), t.shape, t.block)).toEqual(q);
      }),
    );
  });
  test('multiplied by a power of two, the codes stay; negated, they are negated', () => {
    fc.assert(
      fc.property(table, fc.integer({ min: -8, max: 8 }), (t, e) => {
        const w = numbers(t);
        const q = quantizeInt8(w, t.shape, t.block);
        const scaled = quantizeInt8(
          w.map((v) => v * 2 ** e),
          t.shape,
          t.block,
        );
        expect(scaled.codes).toEqual(q.codes);
        expect(scaled.scales).toEqual(q.scales.map((c) => c * 2 ** e));
        const flipped = quantizeInt8(
          w.map((v) => -v),
          t.shape,
          t.block,
        );
        expect(flipped).toEqual({ codes: q.codes.map((c) => -c), scales: q.scales });
      }),
    );
  });
  test('whole multiples of c/127 come back exactly', () => {
    fc.assert(
      fc.property(fc.integer(), fc.integer({ min: -20, max: 20 }), fc.constantFrom(3, 16, 64), (seed, e, block) => {
        const r = rng(seed);
        const w = Float32Array.from({ length: 128 }, (_, i) => (i % block === 0 ? 127 : r.below(255) - 127) * 2 ** e);
        expect(dequantizeInt8(quantizeInt8(w, [2, 64], block), [2, 64], block)).toEqual(w); // each block has a 127 or is one number
      }),
    );
  });
  test('zeros, the smallest numbers, ties, bad input', () => {
    expect(quantizeInt8(new Float32Array(4), [1, 4], 2)).toEqual({ codes: new Int8Array(4), scales: new Float32Array(2) });
    expect(dequantizeInt8(quantizeInt8(new Float32Array(4), [1, 4], 2), [1, 4], 2)).toEqual(new Float32Array(4));
    const tiny = Float32Array.of(2 ** -149, -(2 ** -149), 0);
    expect(dequantizeInt8(quantizeInt8(tiny, [1, 3], 3), [1, 3], 3)).toEqual(tiny);
    expect(quantizeInt8([1e-50, 0], [1, 2], 2).codes).toEqual(new Int8Array(2)); // below float32: the scale is 0
    expect(quantizeInt8([254, 1, 3, 5, -1, -3], [1, 6], 6).codes).toEqual(Int8Array.of(127, 0, 2, 2, -0, -2)); // ties to even
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) expect(() => quantizeInt8([1, bad], [1, 2])).toThrow('weight 1 of [1, 2] is');
    expect(() => quantizeInt8([1], [1], 0)).toThrow('block must be a whole number from 1');
    expect(() => quantizeInt8([1], [2])).toThrow('1 numbers for shape [2]');
    expect(() => dequantize(leaf(new Int8Array(4), [1, 4]), leaf([1, 1, 1], [1, 3]), 2)).toThrow('needs scales [1, 2], got [1, 3]');
  });
  test('the op computes what the host does', async () => {
    await fc.assert(
      fc.asyncProperty(table, async (t) => {
        const q = quantizeInt8(numbers(t), t.shape, t.block);
        const op = dequantize(leaf(q.codes, t.shape), leaf(q.scales, [t.shape[0], Math.ceil(t.shape[1] / t.block)]), t.block);
        expect(Float32Array.from(await engine.read(op))).toEqual(dequantizeInt8(q, t.shape, t.block));
      }),
      { numRuns: 30 },
    );
  });
});

describe('models', () => {
  const sizes = { vocabulary: 11, width: 64, layers: 2, heads: 2, positions: 8, inner: 96 };
  const base = freeze(decoder(llama(sizes), rng(1)));
  const packed = quantize(base, inBlocks, int8());
  const logits = (m: Model): Promise<ArrayLike<number>> => engine.read(m({ ids: leaf([1, 2, 3], [1, 3]) }, context(3)));
  const nodesOf = (t: Tensor): Tensor[] => topological([t]);

  test('bytes: one per weight and four per block; the base given is as it was', () => {
    const matrices = [...tensors(base)].filter(({ path, tensor }) => inBlocks(path) && tensor.shape.length === 2);
    const count = matrices.reduce((n, { tensor }) => n + size(tensor.shape), 0);
    const scales = matrices.reduce((n, { tensor: { shape } }) => n + shape[0]! * Math.ceil(shape[1]! / 64), 0);
    expect(residentBytes(base) - residentBytes(packed)).toBe(4 * count - (count + 4 * scales));
    expect(packedPaths(packed)).toEqual(matrices.map(({ path }) => path));
    expect(packedPaths(base)).toEqual([]);
    const arrays = [...tensors(packed)].flatMap(({ path, tensor: { source: s } }) =>
      path.endsWith('.codes') && s.kind === 'leaf' ? [s.data] : [],
    );
    expect(arrays.every((d) => d instanceof Int8Array)).toBe(true);
    expect(account([packed({ ids: leaf([1], [1, 1]) }, context(1))]).leaves.host).toBeLessThan(residentBytes(base) / 2.5);
  });
  test('the model computes exactly what its unpacked copy does, and nearly what the original does', async () => {
    const copy = await realize(unpacked(packed), engine);
    expect(await logits(copy)).toEqual(await logits(packed));
    const [a, b] = [await logits(base), await logits(packed)];
    const rms = (x: ArrayLike<number>): number => Math.sqrt(Array.from(x).reduce((s, v) => s + v * v, 0) / x.length);
    const apart = rms(Array.from(a, (v, i) => v - b[i]!)) / rms(a);
    expect(apart).toBeGreaterThan(0);
    expect(apart).toBeLessThan(0.02); // a weight is off by c/254/√3 on average, where c ≈ 2.4σ: about 0.6 % per product
  });
  test('no gradient node for the base: backward has no recipe of a packed weight’s shape but its unpacking', () => {
    const model = lora({ rank: 2, where: ['q', 'v', 'up', 'down'] })(packed);
    const y = model({ ids: input('ids', [1, 3]) }, context(3));
    const ps = [...params(model).keys()];
    const grads = grad(y.mul(y).mean(), ps.map(stateOf));
    const shapes = new Set(['64,64', '96,64', '64,96']);
    const backward = [...new Set(grads.flatMap(nodesOf))].filter((t) => t.at.phase === 'backward' && shapes.has(String(t.shape)));
    expect(backward.length).toBeGreaterThan(0);
    for (const t of backward) expect(t.source.kind === 'apply' && t.source.op.name).toBe('unpack');
  });
  test('backward unpacks again: no unpacked weight waits for it', () => {
    const step = (m: Model): readonly Tensor[] => {
      const model = lora({ rank: 2, where: ['q'] })(m);
      const y = model({ ids: input('ids', [1, 3]) }, context(3));
      const loss = y.mul(y).mean();
      return [loss, ...grad(loss, [...params(model).keys()].map(stateOf))];
    };
    const [plain, small] = [account(step(base)), account(step(packed))];
    expect(small.total.saved).toBe(plain.total.saved);
    expect(small.peak).toBeLessThanOrEqual(plain.peak + 2 * 4 * 64 * 96); // at most the weight in use (and one beside it)
  });
  test('LoRA on a packed base trains, the codes stay bit for bit, and it merges into an unpacked copy', async () => {
    const before = [...tensors(packed)].map(({ tensor: { source: s } }) => (s.kind === 'leaf' ? s.data.slice() : null));
    const model = lora({ rank: 2, where: ['q', 'v'], alpha: 4 })(packed);
    const loss = (m: Model, b: { ids: Tensor }): Tensor => {
      const y = m({ ids: b.ids }, context(3));
      return y.mul(y).mean();
    };
    await using t = await trainer(model, { engine, loss, optimizer: adamw({ lr: 0.02 }) });
    const batch = { ids: { data: [1, 2, 3], shape: [1, 3] } };
    const losses: number[] = [];
    for (let k = 0; k < 6; k++) losses.push((await t.step(batch)).loss);
    expect(losses.at(-1)).toBeLessThan(losses[0]!);
    const trained = await t.model();
    expect([...tensors(packed)].map(({ tensor: { source: s } }) => (s.kind === 'leaf' ? s.data : null))).toEqual(before);
    const merged = await realize(merge(trained), engine);
    const [a, b] = [await logits(trained), await logits(merged)];
    for (const [i, v] of Array.from(a).entries()) expect(Math.abs(v - b[i]!)).toBeLessThan(1e-12);
    expect(packedPaths(merged)).toHaveLength(packedPaths(packed).length - 4); // the sites are plain numbers now, the rest stays packed
  });
  test('tied embeddings stay tied; embeddings may be packed', async () => {
    const tied = freeze(decoder(gpt2({ ...sizes, width: 16, inner: 8 }), rng(2)));
    const q = quantize(tied, () => true, int8({ block: 8 }));
    expect(
      new Set([...tensors(q)].filter(({ path }) => path.startsWith('embed.') || path.startsWith('head.')).map(({ tensor }) => tensor)).size,
    ).toBe(2);
    expect(await logits(q)).toEqual(await logits(await realize(unpacked(q), engine)));
  });
  test('what cannot be packed is refused', () => {
    expect(() => quantize(decoder(llama(sizes), rng(1)), inBlocks, int8())).toThrow(
      'trunk.blocks.0.attn.q.weight is trainable; freeze(model) first',
    );
    expect(() => quantize(packed, inBlocks, int8())).toThrow('trunk.blocks.0.attn.q.weight is packed already');
    expect(() => quantize(base, () => false, int8())).toThrow('chose none of this model’s matrices: embed.weight, '.replace('’', "'"));
    expect(() => quantize(merge(lora({ rank: 1 })(base)), inBlocks, int8())).toThrow('is a recipe, not numbers; await realize');
    const partly = unfreeze(base, (p) => p.endsWith('norm1.weight')); // not a matrix: stays trainable
    expect(params(quantize(partly, inBlocks, int8())).size).toBe(2);
    const values = new Map([...params(partly).keys()].map((p): [Param, Float32Array] => [p, new Float32Array(p.value)]));
    expect(paramOf([...tensors(withValues(partly, values))][0]!.tensor)).toBeNull();
  });
});
