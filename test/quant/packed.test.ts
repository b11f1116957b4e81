// Products and lookups that read a packed matrix code by code: the same numbers as with the unpacked matrix, on every engine and for every way of
// packing; no gradient for the base; bytes counted as bytes; nothing runs as JavaScript on simd.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { account } from '../../core/account.ts';
import { gpujsEngine } from '../../core/engines/gpujs.ts';
import { simd } from '../../core/engines/simd.ts';
import { threeInOne } from '../../core/engines/text.ts';
import { grad } from '../../core/grad.ts';
import { fromHalf } from '../../core/halves.ts';
import { gather } from '../../core/ops/index.ts';
import { packedParts } from '../../core/ops/unpack.ts';
import { rng } from '../../core/rng.ts';
import { schedule } from '../../core/schedule.ts';
import { size } from '../../core/shape.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { decoder, gpt2 } from '../../nn/decoder.ts';
import { freeze, moveTo } from '../../nn/freeze.ts';
import { ofKind } from '../../nn/layer.ts';
import { tensors } from '../../nn/tree.ts';
import { f16, halfWeight, toHalf } from '../../quant/half.ts';
import { nf4 } from '../../quant/nf4.ts';
import { quantize, residentBytes } from '../../quant/quantize.ts';
import { agree, exact, exactHalves, names, normal, schemes, uses } from './packed.ts';

const matrix = fc.record({
  shape: fc.tuple(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 90 })),
  block: fc.constantFrom(1, 3, 16, 64),
  rows: fc.integer({ min: 1, max: 20 }),
  scheme: fc.constantFrom(...names),
  seed: fc.integer(),
});

describe('products and lookups', () => {
  for (const threads of [1, 2])
    test(`simd with ${threads} thread${threads === 1 ? '' : 's'}: as with the unpacked matrix, whatever its size and blocks`, async () => {
      await using e = await simd({ threads, relaxed: threads === 2 });
      await fc.assert(
        fc.asyncProperty(matrix, ({ shape, block, rows, scheme, seed }) =>
          agree(e, schemes[scheme]!(block).pack(normal(seed, size(shape)), shape)(), rows),
        ),
        { numRuns: 8 },
      );
    });
  for (const mode of ['cpu', 'webasm'] as const)
    test(`gpujs ${mode}: as with the unpacked matrix`, async () => {
      await using e = await gpujsEngine({ mode });
      for (const [k, name] of names.entries()) {
        const shape = k % 2 === 0 ? [3, 10] : [4, 9];
        await agree(e, schemes[name]!(4).pack(normal(k, size(shape)), shape)(), 2);
      }
    });
  test('the same bits whatever the number of threads', async () => {
    const w = nf4().pack(normal(1, 300 * 70), [300, 70])();
    const x = leaf(normal(2, 33 * 70), [33, 70]);
    const with_ = async (threads: number): Promise<ArrayLike<number>> => {
      await using e = await simd({ threads });
      return await e.read(x.matmul(w.T));
    };
    expect(await with_(3)).toEqual(await with_(1));
  });
  test('float64 gives the very numbers of the unpacked matrix', async () => {
    for (const name of names) {
      const w = schemes[name]!(7).pack(normal(3, 11 * 13), [11, 13])();
      const plain = leaf(await exact.read(w), [11, 13]);
      for (const [use, t] of Object.entries(uses(w, 3))) expect(await exact.read(t)).toEqual(await exact.read(uses(plain, 3)[use]!));
    }
  });
});

describe('what is stored and counted', () => {
  const model = freeze(decoder(gpt2({ vocabulary: 40, width: 32, layers: 2, heads: 2, positions: 8 }), rng(1)));
  for (const name of names)
    test(`${name}: no unpacked matrix among the values of a forward and backward pass, and simd runs no JavaScript`, async () => {
      const packed = quantize(model, () => true, schemes[name]!(16));
      const shift = param(new Float32Array(32), [32]);
      const h = packed({ ids: leaf([1, 2, 3], [1, 3]) }, context(3));
      const loss = h.mul(h).mean().add(shift.mul(0).sum());
      const bias = param(normal(4, 3 * 32), [3, 32]);
      const w = [...tensors(packed)].length; // the tree is walked without unpacking anything
      expect(w).toBeGreaterThan(0);
      const x = bias.matmul(schemes[name]!(16).pack(normal(5, 48 * 32), [48, 32])().T);
      const roots = [loss, x, ...grad(x.mul(x).sum(), [bias])];
      const s = schedule(roots);
      const matrices = s.steps.filter(({ node }) => packedParts(node) !== null && packedParts(node)!.packing.form !== 'shifted');
      expect(matrices).toEqual([]);
      await using e = await simd({ threads: 1 });
      const plan = await e.compile(e.store(), { outputs: { loss, x, dx: roots[2]! } });
      expect(plan.report.fallback).toBe(null);
      const [mine, other] = [await plan.run(), await exact.read(loss)];
      expect(Math.abs(mine.loss[0]! - other[0]!)).toBeLessThanOrEqual(1e-5 * Math.abs(other[0]!));
      const { leaves } = account(loss);
      expect(leaves.device).toBe(leaves.host); // bytes as they lie
    });
  test('a gradient flows to x, and to the base there is none', async () => {
    const x = param(normal(2, 5 * 24), [5, 24]);
    for (const name of names) {
      const w = schemes[name]!(16).pack(normal(5, 10 * 24), [10, 24])();
      const y = x.matmul(w.T);
      const parts = Object.values(packedParts(w)!.parts);
      const [dx] = grad(y.mul(y).sum(), [x]) as [Tensor];
      const plain = leaf(await exact.read(w), [10, 24]);
      const z = x.matmul(plain.T);
      expect(await exact.read(dx)).toEqual(await exact.read(grad(z.mul(z).sum(), [x])[0]!));
      for (const d of grad(y.mul(y).sum(), parts)) expect([...(await exact.read(d))].every((v) => v === 0)).toBe(true);
    }
  });
  test('three bytes in a number, every row begun anew', () => {
    expect([...threeInOne(Uint8Array.of(1, 2, 3, 4, 255, 255, 255, 0), 2, 4)]).toEqual([0x010203, 0x040000, 0xffffff, 0]);
    expect([...threeInOne(Int8Array.of(-1, -128), 1, 2)]).toEqual([0xff8000]);
  });
});

describe('numbers in the engine’s memory alone', () => {
  test('a model that was moved answers the same, is held once, and tied tables stay tied', async () => {
    await using e = await simd({ threads: 1 });
    const model = quantize(
      freeze(decoder(gpt2({ vocabulary: 11, width: 16, layers: 1, heads: 2, positions: 8 }), rng(1))),
      () => true,
      nf4(),
    );
    const moved = moveTo(model, e);
    const run = (m: typeof model): Promise<ArrayLike<number>> => e.read(m({ ids: leaf([1, 2, 3], [1, 3]) }, context(3)));
    expect(await run(moved)).toEqual(await run(model));
    expect(residentBytes(moved)).toBe(residentBytes(model));
    for (const { tensor } of tensors(moved)) if (tensor.source.kind === 'leaf') expect(moveTo([tensor], e)[0]).toBe(tensor); // already there
    const [large] = moveTo([nf4().pack(normal(1, 1 << 18), [512, 512])], e);
    const before = e.memory!();
    await e.read(gather(ofKind(large, 'weight')(), leaf([5], [1])));
    expect(e.memory!() - before).toBeLessThan(1 << 15); // a copy of the codes would be 2¹⁷ bytes
    expect(await exact.read(moved({ ids: leaf([1, 2, 3], [1, 3]) }, context(3)))).toEqual(
      await exact.read(model({ ids: leaf([1, 2, 3], [1, 3]) }, context(3))),
    );
  });
  test('an engine without a memory of its own leaves a model as it is', () => {
    const w = [leaf([1, 2], [2])];
    expect(moveTo(w, exact)).toBe(w);
  });
});

describe('half precision', () => {
  test('patterns of 16 bits are themselves again, and unpack exactly on every engine', async () => {
    for (const [format, exponent] of [
      ['f16', 0x7c00],
      ['bf16', 0x7f80],
    ] as const) {
      const finite = Array.from({ length: 4096 }, (_, b) => 16 * b + (b % 16)).filter((b) => (b & exponent) !== exponent);
      await exactHalves(format, finite);
    }
  });
  test('rounding is to the nearest, ties to even', () => {
    fc.assert(
      fc.property(fc.float({ min: -60000, max: 60000, noNaN: true }), fc.constantFrom('f16', 'bf16'), (x, format) => {
        const b = toHalf(x, format);
        const error = Math.abs(fromHalf(b, format) - x);
        for (const near of [b - 1, b + 1]) {
          const other = Math.abs(fromHalf(near & 0xffff, format) - x);
          if (Number.isNaN(other) || Math.sign(fromHalf(near & 0xffff, format)) === -Math.sign(x)) continue;
          expect(error <= other).toBe(true);
          if (error === other) expect(b % 2).toBe(0);
        }
      }),
    );
    expect([toHalf(1, 'f16'), toHalf(-2, 'f16'), toHalf(65504, 'f16'), toHalf(2 ** -24, 'f16'), toHalf(1, 'bf16')]).toEqual([
      0x3c00, 0xc000, 0x7bff, 1, 0x3f80,
    ]);
    expect([toHalf(65520, 'f16'), toHalf(2 ** -25, 'f16'), toHalf(Number.NaN, 'bf16')]).toEqual([0x7c00, 0, 0x7fc0]);
  });
  test('what is not finite is refused by place', () => {
    expect(() => f16().pack([1, 70000] as unknown as Float32Array, [1, 2])).toThrow('f16: number 1 of [1, 2] is infinite or not a number');
    expect(() => halfWeight(new Uint8Array(3), [1, 2], 'bf16')).toThrow('3 bytes for shape [1, 2]');
  });
});
