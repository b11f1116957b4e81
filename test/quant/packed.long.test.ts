// Packed products at length: several panels each way, many sizes, all numbers of 16 bits, and webgpu where there is an adapter.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { findAdapter, releaseAdapter } from '../../core/engines/adapter.ts';
import { gpujsEngine } from '../../core/engines/gpujs.ts';
import { simd } from '../../core/engines/simd.ts';
import { size } from '../../core/shape.ts';
import { leaf } from '../../core/tensor.ts';
import { agree, exact, exactHalves, names, normal, schemes } from './packed.ts';

test('simd: more than one panel each way', async () => {
  await using e = await simd({ threads: 2 });
  for (const [k, name] of names.entries()) {
    const w = schemes[name]!(64).pack(normal(k, 521 * 263), [521, 263])();
    const x = leaf(normal(9, 130 * 263), [130, 263]);
    const plain = leaf(Float32Array.from(await exact.read(w)), [521, 263]);
    for (const [t, u] of [
      [x.matmul(w.T), x.matmul(plain.T)],
      [w.T.matmul(w).slice(0, 0, 9), plain.T.matmul(plain).slice(0, 0, 9)],
    ] as const) {
      const [a, b] = [await e.read(u), await e.read(t)];
      expect(a.findIndex((v, q) => !(Math.abs(v - b[q]!) <= 1e-5 * (1 + Math.abs(v))))).toBe(-1);
    }
  }
});

for (const relaxed of [true, false])
  test(`simd${relaxed ? '' : ' without fused multiply-add'}: two hundred packed matrices`, async () => {
    await using e = await simd({ threads: 2, relaxed });
    const matrix = fc.record({
      shape: fc.tuple(fc.integer({ min: 1, max: 90 }), fc.integer({ min: 1, max: 160 })),
      block: fc.constantFrom(1, 2, 3, 5, 16, 32, 64),
      rows: fc.integer({ min: 1, max: 40 }),
      scheme: fc.constantFrom(...names),
      seed: fc.integer(),
    });
    await fc.assert(
      fc.asyncProperty(matrix, ({ shape, block, rows, scheme, seed }) =>
        agree(e, schemes[scheme]!(block).pack(normal(seed, size(shape)), shape)(), rows),
      ),
      { numRuns: 200 },
    );
  }, 300_000);

test('every finite number of 16 bits', async () => {
  for (const [format, exponent] of [
    ['f16', 0x7c00],
    ['bf16', 0x7f80],
  ] as const)
    await exactHalves(
      format,
      Array.from({ length: 65536 }, (_, b) => b).filter((b) => (b & exponent) !== exponent),
    );
});

const found = await findAdapter();
releaseAdapter();
test.skipIf('reason' in found)(
  'gpujs webgpu: as with the unpacked matrix',
  async () => {
    await using e = await gpujsEngine({ mode: 'webgpu' });
    for (const [k, name] of names.entries())
      for (const shape of [
        [3, 10],
        [4, 9],
      ])
        await agree(e, schemes[name]!(4).pack(normal(k, size(shape)), shape)(), 2);
  },
  300_000,
);
