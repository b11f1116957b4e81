// Asymmetric int4 and int2 by group: bounds and symmetries of the codes, the kernels on every engine, bytes, gradients, training.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Engine } from '../../core/engine.ts';
import { float64 } from '../../core/engines/float64.ts';
import { gpujsEngine } from '../../core/engines/gpujs.ts';
import { simd } from '../../core/engines/simd.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import { size } from '../../core/shape.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { decoder, gpt2 } from '../../nn/decoder.ts';
import { freeze, realize } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { tensors } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { type Affine, affineCodes, affineParts, type Bits, dequantizeAffine, int2, int4, quantizeAffine } from '../../quant/affine.ts';
import { doubleQuant } from '../../quant/doubleQuant.ts';
import { int8 } from '../../quant/int8.ts';
import { fp4, nf4 } from '../../quant/nf4.ts';
import { inBlocks, packedPaths, quantize, residentBytes, unpacked } from '../../quant/quantize.ts';
import { half, rounded } from '../../quant/round.ts';

const engine = float64();
const table = fc.record({
  shape: fc.tuple(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 90 })),
  bits: fc.constantFrom<Bits>(2, 4),
  group: fc.constantFrom(1, 5, 16, 32),
  seed: fc.integer(),
  exponent: fc.integer({ min: -30, max: 30 }),
  offset: fc.constantFrom(-2, 0, 0.5, 3), // all negative, centred, all positive
});
type Table = { shape: [number, number]; bits: Bits; group: number; seed: number; exponent: number; offset: number };
/** Gaussian numbers of any magnitude about any centre, with some zeros. */
const numbers = ({ shape, seed, exponent, offset }: Omit<Table, 'bits' | 'group'>): Float32Array => {
  const r = rng(seed);
  return r.normal(size(shape), 2 ** exponent, offset * 2 ** exponent).map((v) => (r.next() < 0.1 ? 0 : v));
};
const plain = (shape: [number, number], seed: number): Float32Array => numbers({ shape, seed, exponent: 0, offset: 0 });
/** Every group of a table with the places of its weights. */
function* groups([rows, cols]: readonly [number, number], group: number): Generator<readonly [number, number[]]> {
  const per = Math.ceil(cols / group);
  for (let k = 0; k < rows * per; k++) {
    const from = (k % per) * group;
    yield [k, Array.from({ length: Math.min(group, cols - from) }, (_, j) => Math.floor(k / per) * cols + from + j)];
  }
}

describe('codes', () => {
  test('|w − ŵ| ≤ s/2, zeros are exact, s·(2ᵇ − 1) is the range with 0 in it, zero points are codes', () => {
    fc.assert(
      fc.property(table, (t) => {
        const w = numbers(t);
        const q = quantizeAffine(w, t.shape, t.bits, t.group);
        const back = dequantizeAffine(q, t.shape, t.bits, t.group);
        for (const [k, places] of groups(t.shape, t.group)) {
          const own = places.map((i) => w[i]!);
          const range = Math.max(0, ...own) - Math.min(0, ...own);
          const s = q.scales[k]!;
          if (range > 0) expect(Math.abs(s * (2 ** t.bits - 1) - range)).toBeLessThanOrEqual(range * 2 ** -22);
          else expect([s, q.zeros[k]]).toEqual([1, 0]);
          expect(q.zeros[k]).toBeLessThanOrEqual(2 ** t.bits - 1);
          for (const i of places) {
            expect(Math.abs(w[i]! - back[i]!)).toBeLessThanOrEqual(s / 2 + range * 2 ** -21); // s and ŵ are rounded to float32
            if (w[i] === 0) expect(back[i]! + 0).toBe(0);
          }
        }
      }),
    );
  });
  test('multiplied by a power of two, codes and zero points stay and scales follow; whole multiples of s come back exactly', () => {
    fc.assert(
      fc.property(table, fc.integer({ min: -8, max: 8 }), (t, e) => {
        const w = numbers(t);
        const q = quantizeAffine(w, t.shape, t.bits, t.group);
        const scaled = quantizeAffine(
          w.map((v) => v * 2 ** e),
          t.shape,
          t.bits,
          t.group,
        );
        const none = new Set([...groups(t.shape, t.group)].filter(([, p]) => p.every((i) => w[i] === 0)).map(([k]) => k));
        expect(scaled).toEqual({ ...q, scales: q.scales.map((s, k) => (none.has(k) ? 1 : s * 2 ** e)) });
        const r = rng(t.seed);
        const most = 2 ** t.bits - 1;
        const low = r.below(most + 1);
        const grid = Float32Array.from(
          { length: 64 },
          (_, i) => ((i % 16 === 0 ? 0 : i % 16 === 1 ? most : r.below(most + 1)) - low) * 2 ** e,
        );
        expect(dequantizeAffine(quantizeAffine(grid, [2, 32], t.bits, 16), [2, 32], t.bits, 16)).toEqual(grid.map((v) => v + 0));
      }),
    );
  });
  test('codes come back out of their bytes; the first is in the highest bits; a rest of a row is zeros', () => {
    const w = [-1, 0, 1, 2, 4.5, -1, 0, 0.5, 1, 4.5];
    const q = quantizeAffine(w, [2, 5], 4, 5); // s = 5.5/15, z = round(2.73) = 3
    expect(Buffer.from(q.codes).toString('hex')).toBe('0368f00346f0');
    expect([...affineCodes(q.codes, [2, 5], 4)]).toEqual([0, 3, 6, 8, 15, 0, 3, 4, 6, 15]);
    const two = quantizeAffine([0, 1, 2, 3, 3], [1, 5], 2, 8);
    expect([...two.codes]).toEqual([0b00011011, 0b11000000]);
    expect([[...two.scales], [...two.zeros]]).toEqual([[1], [0]]);
  });
  test('bad input is refused by name and place', () => {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, 1e39])
      expect(() => quantizeAffine([1, bad], [1, 2], 4)).toThrow('number 1 is');
    expect(quantizeAffine([3e38, -3e38], [1, 2], 2).scales[0]).toBeCloseTo(2e38, -32); // the widest range there is
    expect(() => quantizeAffine([1], [1, 1], 4, 0)).toThrow('group must be a whole number from 1');
    expect(() => quantizeAffine([1], [1, 2], 4)).toThrow('1 numbers for shape [1, 2]');
    expect(() => int4().pack(new Float32Array(4), [4])).toThrow('packs matrices');
  });
  test('rounding: ties to even, on the host and as a recipe, in double and in single precision', async () => {
    const x = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 126.5, -126.5, 0.49999997, -0.49999997, 0.50000006, 3, -0];
    const wanted = [-2, -2, 0, 0, 2, 2, 126, -126, 0, 0, 1, 3, 0];
    expect(x.map((v) => half(v) + 0)).toEqual(wanted);
    await using fast = await simd({ threads: 1 });
    for (const e of [engine, fast]) expect(Array.from(await e.read(rounded(leaf(x, [x.length]))), (v) => v + 0)).toEqual(wanted);
  });
});

describe('every scheme', () => {
  const schemes = [int8(), nf4(), fp4(), nf4({ scales: doubleQuant() }), int4(), int2({ group: 16 })];
  for (const scheme of schemes)
    test(`${scheme.name}: round() is what the recipe unpacks, and packing that again changes nothing but rounding`, async () => {
      const w = plain([6, 64], 4);
      const host = scheme.round(w, [6, 64]);
      const device = await engine.read(scheme.pack(w, [6, 64])());
      for (const [i, v] of host.entries()) expect(Math.abs(v - device[i]!)).toBeLessThanOrEqual(2 ** -21);
    });
});

describe('ops', () => {
  const engines: readonly (readonly [string, () => Engine | Promise<Engine>])[] = [
    ['float64', float64],
    ['simd', () => simd({ threads: 1 })],
    ['gpujs cpu', () => gpujsEngine({ mode: 'cpu' })],
    ['gpujs webasm', () => gpujsEngine({ mode: 'webasm' })],
  ];
  // Whole bytes and groups, a byte half used, a group cut off, one row.
  const cases: readonly (readonly [shape: [number, number], group: number])[] = [
    [[3, 64], 32],
    [[5, 7], 4],
    [[1, 13], 64],
    [[4, 10], 1],
  ];
  for (const [name, open] of engines)
    test(`${name}: unpacks what the host unpacks, on every layout`, async () => {
      await using e = await open();
      for (const [k, [shape, group]] of cases.entries())
        for (const [bits, scheme] of [
          [4, int4({ group })],
          [2, int2({ group })],
        ] as const) {
          const w = plain(shape, k + 1);
          const expected = dequantizeAffine(quantizeAffine(w, shape, bits, group), shape, bits, group);
          expect([...Float32Array.from(await e.read(scheme.pack(w, shape)()), (v) => v + 0)]).toEqual([...expected].map((v) => v + 0));
        }
    });
  test('the gradient is dy·ŵ for x, and none for what is packed; the parts of the recipe are there to read', async () => {
    const w = plain([12, 32], 9);
    const packed = int4({ group: 16 }).pack(w, [12, 32]);
    const x = param(rng(2).normal(2 * 32), [2, 32]);
    const dx = (weight: Tensor): Tensor => {
      const y = x.matmul(weight.T);
      return grad(y.mul(y).sum(), [x])[0]!;
    };
    const dense = leaf(await engine.read(packed()), [12, 32]);
    expect(await engine.read(dx(packed()))).toEqual(await engine.read(dx(dense)));
    expect(affineParts(packed())).toMatchObject({ shape: [12, 32], bits: 4, group: 16 });
    expect(affineParts(dense)).toBeNull();
  });
});

describe('models', () => {
  const base = freeze(decoder(gpt2({ vocabulary: 11, width: 16, layers: 2, heads: 2, positions: 8, inner: 24 }), rng(1)));
  const matrices = [...tensors(base)].filter(({ path, tensor }) => inBlocks(path) && tensor.shape.length === 2);
  const logits = (m: Model): Promise<ArrayLike<number>> => engine.read(m({ ids: leaf([1, 2, 3], [1, 3]) }, context(3)));
  test('bytes: codes by rows, five bytes per group', () => {
    for (const [bits, scheme] of [
      [4, int4({ group: 8 })],
      [2, int2({ group: 8 })],
    ] as const) {
      const saved = matrices.reduce((s, { tensor: { shape } }) => s + size(shape) * (4 - bits / 8 - 5 / 8), 0);
      expect(residentBytes(base) - residentBytes(quantize(base, inBlocks, scheme))).toBe(saved);
    }
  });
  test('the packed model computes what its unpacked copy does; LoRA trains on it and the packed bytes stay', async () => {
    const packed = quantize(base, inBlocks, int4({ group: 8 }));
    expect(await logits(await realize(unpacked(packed), engine))).toEqual(await logits(packed));
    const model = lora({ rank: 2, alpha: 4, where: inBlocks })(packed);
    const bytes = (m: Model): string =>
      [...tensors(m)].map(({ tensor: { source: s } }) => (s.kind === 'leaf' && s.data instanceof Uint8Array ? s.data.join() : '')).join();
    const loss = (m: Model, b: { ids: Tensor }): Tensor => {
      const y = m({ ids: b.ids }, context(3));
      return y.mul(y).mean();
    };
    await using t = await trainer(model, { engine, loss, optimizer: adamw({ lr: 0.002 }) });
    const batch = { ids: { data: [1, 2, 3], shape: [1, 3] } };
    const losses: number[] = [];
    for (let k = 0; k < 4; k++) losses.push((await t.step(batch)).loss);
    expect(losses.at(-1)).toBeLessThan(losses[0]!);
    const trained = await t.model();
    expect(bytes(trained)).toBe(bytes(model));
    expect(packedPaths(trained)).toEqual(matrices.map(({ path }) => path));
  });
  test('zero points of fractions unpack as they are', async () => {
    const q: Affine = quantizeAffine(plain([2, 8], 3), [2, 8], 4, 4);
    const zeros = Float32Array.from(q.zeros, (z, k) => z + k / 8);
    const packed = int4({ group: 4 }).pack(plain([2, 8], 3), [2, 8]);
    const moved = packed.with({ ...packed.fields, zeros: leaf(zeros, [2, 2]) });
    const read = await engine.read((moved as typeof packed)());
    expect([...Float32Array.from(read)]).toEqual([...dequantizeAffine({ ...q, zeros }, [2, 8], 4, 4)]);
  });
});
