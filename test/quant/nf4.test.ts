// Four-bit codes and double quantisation: byte-level vectors, error bounds, the ops on every engine, and QLoRA.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { account } from '../../core/account.ts';
import type { Codebook } from '../../core/codebook.ts';
import type { Engine } from '../../core/engine.ts';
import { float64 } from '../../core/engines/float64.ts';
import { gpujsEngine } from '../../core/engines/gpujs.ts';
import { simd } from '../../core/engines/simd.ts';
import { grad } from '../../core/grad.ts';
import { blocksShape, packedParts } from '../../core/ops/unpack.ts';
import { rng } from '../../core/rng.ts';
import { size } from '../../core/shape.ts';
import { input, leaf, param, stateOf, type Tensor, topological } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { decoder, llama } from '../../nn/decoder.ts';
import { freeze, realize } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { params, tensors } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';
import { merge } from '../../peft/merge.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { qlora } from '../../peft/reparameterized/qlora.ts';
import { dequantizeScales, doubleQuant, dynamicMap, quantizeScales } from '../../quant/doubleQuant.ts';
import { dequantize4, fp4, fp4Code, nf4, nf4Code, packCodes, quantize4, unpackCodes } from '../../quant/nf4.ts';
import { inBlocks, packedPaths, quantize, residentBytes, unpacked } from '../../quant/quantize.ts';

const engine = float64();
const books: Readonly<Record<string, Codebook>> = { nf4: nf4Code, fp4: fp4Code };
const run = fc.record({
  book: fc.constantFrom('nf4', 'fp4'),
  n: fc.integer({ min: 1, max: 300 }),
  block: fc.constantFrom(1, 7, 16, 64),
  seed: fc.integer(),
  exponent: fc.integer({ min: -30, max: 30 }),
});
/** Gaussian numbers of any magnitude, with some zeros. */
const numbers = (n: number, seed: number, exponent = 0): Float32Array => {
  const r = rng(seed);
  return r.normal(n, 2 ** exponent).map((v) => (r.next() < 0.1 ? 0 : v));
};
const hex = (b: Uint8Array): string => Buffer.from(b).toString('hex');
const squares = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  Array.from(a).reduce((s, v, i) => s + (v - b[i]!) ** 2, 0) / a.length;
/** Half the widest gap between neighbours around x, straight from the sorted values. */
const halfGap = ({ values }: Codebook, x: number): number => {
  const v = [...values].sort((a, b) => a - b);
  const k = v.findIndex((e) => e >= x);
  return k <= 0 ? Math.abs(x - v.at(k)!) : (v[k]! - v[k - 1]!) / 2;
};

describe('codes', () => {
  test('sin 0 … sin 63, byte for byte', () => {
    const x = Float32Array.from({ length: 64 }, (_, i) => Math.sin(i));
    const vectors = [
      [nf4Code, '7ef9104efc202cfe4019fe7106efa103dfd301bfe5017ef9104efc202cfd4019', 0.0029493],
      [fp4Code, '0336abf234dbd532fba6339bbe237abc535dba432eba1336abf234dbd532cba6', 0.0043009],
    ] as const;
    for (const [book, bytes, mse] of vectors) {
      const q = quantize4(x, book);
      expect(hex(q.codes)).toBe(bytes);
      expect(q.scales[0]).toBeCloseTo(0.9999902, 7);
      expect(squares(x, dequantize4(q, 64, book))).toBeCloseTo(mse, 7);
    }
  });
  test('the tables: NF4 are the normal distribution’s quantiles, FP4 are floats, the dynamic map has its ends and its zero', () => {
    expect([...nf4Code.values]).toEqual([...nf4Code.values].sort((a, b) => a - b));
    // Φ of the positives before scaling: a straight line from 1/2 to 0.9677083, to the figures that the table is known to.
    const cdf = (x: number): number => {
      const h = x / 2000; // Simpson's rule
      let s = 0;
      for (let k = 0; k <= 2000; k++) s += (k === 0 || k === 2000 ? 1 : k % 2 === 1 ? 4 : 2) * Math.exp(-((k * h) ** 2) / 2);
      return 0.5 + (s * h) / 3 / Math.sqrt(2 * Math.PI);
    };
    const top = 1.8481308; // Φ⁻¹(0.9677083)
    expect(cdf(top)).toBeCloseTo(0.9677083, 6);
    for (let k = 0; k <= 8; k++) expect(cdf(top * nf4Code.values[7 + k]!)).toBeCloseTo(0.5 + (0.4677083 * k) / 8, 5);
    for (let k = 0; k <= 7; k++) expect(cdf(-top * nf4Code.values[7 - k]!)).toBeCloseTo(0.5 + (0.4677083 * k) / 7, 5);
    expect([...fp4Code.values].slice(0, 8)).toEqual([0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4].map(Math.fround));
    const map = [...dynamicMap.values];
    expect(new Set(map).size).toBe(256);
    expect([map[127], map[255]]).toEqual([0, 1]);
    expect(map[0]).toBeCloseTo(-0.99297, 5);
    expect(map).toEqual([...map].sort((a, b) => a - b));
  });
  test('a value between two codes goes to the lower one; −0 is 0', () => {
    for (const { values, nearest } of [nf4Code, fp4Code, dynamicMap]) {
      const sorted = [...new Set(values)].sort((a, b) => a - b);
      for (const [k, v] of sorted.slice(1).entries()) {
        const middle = Math.fround((sorted[k]! + v) / 2);
        expect(values[nearest(middle)]).toBe(sorted[k]);
        expect(values[nearest(middle + 1e-6 * (v - sorted[k]!))]).toBe(v);
        expect(values[nearest(v)]).toBe(v);
      }
      expect(nearest(-0)).toBe(nearest(0));
    }
  });
  test('|w − ŵ| ≤ c · half a gap; zeros and ±c are exact; the scale is the block’s largest magnitude', () => {
    fc.assert(
      fc.property(run, ({ book, n, block, seed, exponent }) => {
        const w = numbers(n, seed, exponent);
        const q = quantize4(w, books[book]!, block);
        const back = dequantize4(q, n, books[book]!, block);
        for (const [i, v] of w.entries()) {
          const c = q.scales[Math.floor(i / block)]!;
          const start = i - (i % block);
          expect(c).toBe(Math.max(...w.slice(start, start + block).map(Math.abs)));
          if (v === 0) expect(back[i]! + 0).toBe(0);
          else if (Math.abs(v) === c) expect(back[i]).toBe(v);
          else expect(Math.abs(v - back[i]!)).toBeLessThanOrEqual(c * (halfGap(books[book]!, v / c) + 2 ** -22));
        }
      }),
    );
  });
  test('quantising what was unpacked changes nothing; powers of two pass through to the scales', () => {
    fc.assert(
      fc.property(run, fc.integer({ min: -8, max: 8 }), ({ book, n, block, seed, exponent }, e) => {
        const w = numbers(n, seed, exponent);
        const q = quantize4(w, books[book]!, block);
        expect(quantize4(dequantize4(q, n, books[book]!, block), books[book]!, block)).toEqual(q);
        const scaled = quantize4(
          w.map((v) => v * 2 ** e),
          books[book]!,
          block,
        );
        expect(scaled).toEqual({ codes: q.codes, scales: q.scales.map((c) => c * 2 ** e) });
      }),
    );
  });
  test('packing and unpacking are inverse; an odd count is padded with zero', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 15 }), { maxLength: 40 }), (codes) => {
        expect([...unpackCodes(packCodes(Uint8Array.from(codes), 7), codes.length)]).toEqual(codes);
      }),
    );
    expect(hex(quantize4([1, -1, 1], nf4Code).codes)).toBe('f0f7');
    expect(hex(quantize4([1, -1, 1], fp4Code).codes)).toBe('3b30');
  });
  test('NF4 is nearer than FP4 to gaussian weights', () => {
    const w = rng(5).normal(4096, 0.02);
    const mse = (b: Codebook): number => squares(w, dequantize4(quantize4(w, b), w.length, b));
    expect(mse(nf4Code)).toBeLessThan(0.8 * mse(fp4Code));
  });
  test('zeros, the smallest numbers, bad input', () => {
    for (const b of [nf4Code, fp4Code]) {
      expect([...dequantize4(quantize4(new Float32Array(5), b, 2), 5, b, 2)].map(Math.abs)).toEqual([0, 0, 0, 0, 0]);
      const tiny = Float32Array.of(2 ** -149, -(2 ** -149));
      expect(dequantize4(quantize4(tiny, b), 2, b)).toEqual(tiny);
      for (const bad of [Number.NaN, Number.NEGATIVE_INFINITY, 1e39]) expect(() => quantize4([1, bad], b)).toThrow('number 1 is');
      expect(() => quantize4([1], b, 0)).toThrow('block must be a whole number from 1');
    }
    expect(() => nf4().pack(new Float32Array(4), [4])).toThrow('packs matrices');
  });
});

describe('double quantisation', () => {
  test('a scale is off by at most 0.9/128 of its block’s largest deviation from the mean', () => {
    fc.assert(
      fc.property(fc.integer(), fc.integer({ min: 1, max: 600 }), fc.constantFrom(3, 256), (seed, n, block) => {
        const c = rng(seed).normal(n, 0.02).map(Math.abs);
        const q = quantizeScales(c, block);
        const back = dequantizeScales(q, block);
        for (const [i, v] of c.entries()) {
          const bound = (0.9 / 128) * q.scales[Math.floor(i / block)]! + 2 ** -22 * (q.offset + v);
          expect(Math.abs(v - back[i]!)).toBeLessThanOrEqual(bound);
        }
      }),
    );
  });
  test('equal scales are exact, a block of zero weights stays zero', async () => {
    const same = new Float32Array(300).fill(0.3);
    expect(dequantizeScales(quantizeScales(same))).toEqual(same);
    expect(() => quantizeScales(Float32Array.of(1, Number.NaN))).toThrow('quantizeScales: number 0 is');
    const w = numbers(256, 3).fill(0, 64, 128);
    const back = await engine.read(nf4({ scales: doubleQuant() }).pack(w, [4, 64])());
    expect([...back.slice(64, 128)].every((v) => v === 0)).toBe(true);
  });
});

describe('ops', () => {
  const engines: readonly (readonly [string, () => Engine | Promise<Engine>])[] = [
    ['float64', float64],
    ['simd', () => simd({ threads: 1 })],
    ['gpujs cpu', () => gpujsEngine({ mode: 'cpu' })],
    ['gpujs webasm', () => gpujsEngine({ mode: 'webasm' })],
  ];
  // Whole blocks in a row, blocks across rows, odd columns, one row, a last byte half used, scales' own blocks across rows.
  const cases: readonly (readonly [shape: [number, number], block: number, over: number])[] = [
    [[3, 128], 64, 256],
    [[5, 24], 64, 2],
    [[7, 9], 4, 3],
    [[1, 7], 64, 256],
    [[3, 5], 2, 4],
    [[9, 20], 4, 3],
  ];
  for (const [name, open] of engines)
    test(`${name}: unpacks what the host unpacks, on every layout`, async () => {
      await using e = await open();
      for (const [k, [shape, block, over]] of cases.entries()) {
        const w = numbers(size(shape), k + 1);
        for (const [scheme, book] of [
          [nf4, nf4Code],
          [fp4, fp4Code],
        ] as const) {
          const q = quantize4(w, book, block);
          const plain = await e.read(scheme({ block }).pack(w, shape)());
          expect([...Float32Array.from(plain, (v) => v + 0)]).toEqual([...dequantize4(q, w.length, book, block)].map((v) => v + 0));
          const scales = dequantizeScales(quantizeScales(q.scales, over), over);
          const twice = await e.read(scheme({ block, scales: doubleQuant({ block: over }) }).pack(w, shape)());
          const expected = dequantize4({ codes: q.codes, scales }, w.length, book, block);
          for (const [i, v] of expected.entries()) expect(Math.abs(twice[i]! - v)).toBeLessThanOrEqual(2 ** -20); // a few roundings of float32 at |w| ≤ 4
        }
      }
    });
  test('the gradient is dy·ŵ for x, and there is none for what is packed', async () => {
    const w = numbers(12 * 64, 9);
    const packed = nf4({ scales: doubleQuant() }).pack(w, [12, 64]);
    const x = param(rng(2).normal(2 * 64), [2, 64]);
    const dense = leaf(await engine.read(packed()), [12, 64]);
    const dx = (weight: Tensor): Tensor => {
      const y = x.matmul(weight.T);
      return grad(y.mul(y).sum(), [x])[0]!;
    };
    expect(await engine.read(dx(packed()))).toEqual(await engine.read(dx(dense)));
    expect(blocksShape([12, 64], 64)).toEqual([12, 1]);
  });
});

describe('models', () => {
  const sizes = { vocabulary: 11, width: 64, layers: 2, heads: 2, positions: 8, inner: 96 };
  const base = freeze(decoder(llama(sizes), rng(1)));
  const method = qlora({ rank: 2, alpha: 4 });
  const packed = quantize(base, inBlocks, nf4({ scales: doubleQuant() }));
  const logits = (m: Model): Promise<ArrayLike<number>> => engine.read(m({ ids: leaf([1, 2, 3], [1, 3]) }, context(3)));
  const matrices = [...tensors(base)].filter(({ path, tensor }) => inBlocks(path) && tensor.shape.length === 2);

  test('bytes: half of one per weight, one per block, four per 256 blocks, an offset, two tables', () => {
    const sum = (f: (n: number) => number): number => matrices.reduce((s, { tensor }) => s + f(size(tensor.shape)), 0);
    const blocks = (n: number): number => Math.ceil(n / 64); // every matrix here is whole bytes
    const expected = sum((n) => n / 2 + blocks(n) + 4 * Math.ceil(blocks(n) / 256) + 4) + 4 * (16 + 256);
    expect(residentBytes(base) - residentBytes(packed)).toBe(sum((n) => 4 * n) - expected);
    const plain = quantize(base, inBlocks, nf4());
    expect(residentBytes(base) - residentBytes(plain)).toBe(sum((n) => 4 * n - n / 2 - 4 * blocks(n)) - 4 * 16);
  });
  test('the packed model computes what its unpacked copy does', async () => {
    expect(await logits(await realize(unpacked(packed), engine))).toEqual(await logits(packed));
    const off = squares(await logits(base), await logits(packed));
    expect(off).toBeGreaterThan(0);
    expect(off).toBeLessThan(0.1 * squares(await logits(base), new Float32Array(33)));
  });
  test('QLoRA: adapters on every linear of the blocks, none of the packed tensors is trained or kept for backward', () => {
    const model = method(base);
    const paths = [...params(model).values()];
    expect(paths).toHaveLength(2 * matrices.length);
    expect(packedPaths(model)).toEqual(matrices.map(({ path }) => path));
    const step = (m: Model): Tensor[] => {
      const y = m({ ids: input('ids', [1, 3]) }, context(3));
      const loss = y.mul(y).mean();
      return [loss, ...grad(loss, [...params(m).keys()].map(stateOf))];
    };
    const graph = topological(step(model));
    const unpackings = (form: string): number => graph.filter((t) => packedParts(t)?.packing.form === form).length;
    expect(unpackings('table')).toBeGreaterThan(matrices.length); // again in backward
    expect(unpackings('shifted')).toBe(unpackings('table')); // and so are the scales
    expect(account(step(model)).total.saved).toBe(account(step(lora({ rank: 2, alpha: 4, where: inBlocks })(base))).total.saved);
  });
  test('it trains as LoRA on the unpacked weights does, the packed bytes stay, and it merges into an unpacked copy', async () => {
    const model = method(base);
    const bytes = (m: Model): string[] =>
      [...tensors(m)].flatMap(({ tensor: { source: s } }) => (s.kind === 'leaf' && s.data instanceof Uint8Array ? [hex(s.data)] : []));
    const before = bytes(model);
    expect(before).toHaveLength(2 * matrices.length); // codes, and codes of scales
    const loss = (m: Model, b: { ids: Tensor }): Tensor => {
      const y = m({ ids: b.ids }, context(3));
      return y.mul(y).mean();
    };
    const optimizer = adamw({ lr: 0.002 });
    await using t = await trainer(model, { engine, loss, optimizer });
    const plain = lora({ rank: 2, alpha: 4, where: inBlocks })(await realize(unpacked(packed), engine));
    await using u = await trainer(plain, { engine, loss, optimizer });
    const batch = { ids: { data: [1, 2, 3], shape: [1, 3] } };
    const losses: number[] = [];
    for (let k = 0; k < 5; k++) {
      losses.push((await t.step(batch)).loss);
      expect(losses[k]).toBe((await u.step(batch)).loss); // LoRA on the same weights, unpacked
    }
    expect(losses.at(-1)).toBeLessThan(losses[0]!);
    const trained = await t.model();
    expect(bytes(trained)).toEqual(before);
    const merged = await realize(merge(trained), engine);
    expect(packedPaths(merged)).toEqual([]);
    const [a, b] = [await logits(trained), await logits(merged)];
    for (const [i, v] of Array.from(a).entries()) expect(Math.abs(v - b[i]!)).toBeLessThan(1e-12);
  });
});
