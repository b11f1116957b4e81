// Ways of packing, and every way a packed matrix enters a product or a lookup: what laws of packed products share.
import { expect } from 'vitest';
import type { Engine } from '../../core/engine.ts';
import { float64 } from '../../core/engines/float64.ts';
import { simd } from '../../core/engines/simd.ts';
import { fromHalf, type Half } from '../../core/halves.ts';
import { gather } from '../../core/ops/index.ts';
import { rng } from '../../core/rng.ts';
import { size } from '../../core/shape.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { int2, int4 } from '../../quant/affine.ts';
import { doubleQuant } from '../../quant/doubleQuant.ts';
import { bf16, f16, halfWeight, toHalf, toHalves } from '../../quant/half.ts';
import { int8 } from '../../quant/int8.ts';
import { fp4, nf4 } from '../../quant/nf4.ts';
import type { Scheme } from '../../quant/quantize.ts';

export const schemes: Readonly<Record<string, (block: number) => Scheme>> = {
  f16,
  bf16,
  nf4: (block) => nf4({ block }),
  'nf4 double': (block) => nf4({ block, scales: doubleQuant({ block: 5 }) }),
  fp4: (block) => fp4({ block }),
  int8: (block) => int8({ block }),
  int4: (group) => int4({ group }),
  int2: (group) => int2({ group }),
};
export const names = Object.keys(schemes);
export const exact = float64();
export const normal = (seed: number, n: number): Float32Array => rng(seed).normal(n, 0.5);

/** Every way a packed matrix [o, i] enters a product or a lookup; `m` rows of what it meets. */
export function uses(w: Tensor, m: number): Readonly<Record<string, Tensor>> {
  const [o, i] = w.shape as readonly [number, number];
  const of = (seed: number, ...shape: number[]): Tensor => leaf(normal(seed, size(shape)), shape);
  return {
    x·Wᵀ: of(2, m, i).matmul(w.T),
    'batched x·Wᵀ': of(2, 2, m, i).matmul(w.T),
    x·W: of(3, m, o).matmul(w),
    W·z: w.matmul(of(4, i, m)),
    Wᵀ·z: w.T.matmul(of(5, o, m)),
    xᵀ·Wᵀ: of(6, i, m).T.matmul(w.T),
    'batched xᵀ·Wᵀ': of(6, 2, i, m).T.matmul(w.T),
    W·Wᵀ: w.matmul(w.T),
    rows: of(2, m, i).matmul(w.slice(0, o >> 1, o).T),
    lookup: gather(w, leaf([o - 1, 0, o >> 1], [3])),
    'the matrix': w.mul(1),
  };
}
/** Largest |sum of terms| there can be, for the bound: operands are below 4·0.5 but for a few in a million. */
const bound = (k: number): number => 2 ** -21 * (4 + k);

export async function agree(e: Engine, packed: Tensor, m: number): Promise<void> {
  const [o, i] = packed.shape as readonly [number, number];
  const plain = uses(leaf(Float32Array.from(await exact.read(packed)), packed.shape), m);
  for (const [use, t] of Object.entries(uses(packed, m))) {
    const [a, b] = [await exact.read(plain[use]!), await e.read(t)];
    const far = a.findIndex((v, k) => !(Math.abs(v - b[k]!) <= bound(Math.max(o, i)) * (1 + Math.abs(v))));
    if (far >= 0) throw new Error(`${use} of ${packed.shape}: element ${far} is ${b[far]}, expected ${a[far]}`);
  }
}

/** Bits → numbers → bits, and the numbers again from float64 and simd. `patterns`: a multiple of 8, all finite. */
export async function exactHalves(format: Half, patterns: readonly number[]): Promise<void> {
  const numbers = patterns.map((b) => fromHalf(b, format));
  expect(numbers.map((v) => toHalf(v, format))).toEqual(patterns);
  const w = halfWeight(toHalves(Float32Array.from(numbers), format), [8, patterns.length / 8], format)();
  await using e = await simd({ threads: 1 });
  for (const engine of [exact, e]) expect(Float32Array.from(await engine.read(w))).toEqual(Float32Array.from(numbers));
}
