// Laws of gradient clipping.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { leaf, type Param, param, paramOf, type Tensor } from '../../core/tensor.ts';
import { type Clip, clipByNorm, clipByValue } from '../../optim/clip.ts';
import { sgd } from '../../optim/sgd.ts';
import { pull, vector, vectorTrainer } from './tiny.ts';

const engine = float64();
const gradients = (seed: number, scale: number): Map<Param, Tensor> => {
  const r = rng(seed);
  return new Map(
    [[2, 3], [4], [1, 1, 2]].map((shape) => {
      const n = shape.reduce((a, b) => a * b, 1);
      return [paramOf(param(new Float32Array(n), shape))!, leaf(r.normal(n, scale), shape)];
    }),
  );
};
const numbers = async (g: ReadonlyMap<Param, Tensor>): Promise<number[]> => {
  const all: number[] = [];
  for (const t of g.values()) all.push(...(await engine.read(t)));
  return all;
};
const norm = (xs: readonly number[]): number => Math.hypot(...xs);
const args = [fc.integer({ min: 0, max: 1e6 }), fc.constantFrom(1e-4, 0.1, 1, 30), fc.constantFrom(0.01, 1, 5)] as const;
const law = (clip: (max: number) => Clip, holds: (before: number[], after: number[], max: number) => void): Promise<void> =>
  fc.assert(
    fc.asyncProperty(...args, async (seed, scale, max) => {
      const g = gradients(seed, scale);
      holds(await numbers(g), await numbers(clip(max)(g).grads), max);
    }),
    { numRuns: 20 },
  );

describe('by norm', () => {
  test('never longer than the limit, the same direction, untouched below it', () =>
    law(clipByNorm, (before, after, max) => {
      expect(norm(after)).toBeLessThanOrEqual(max * (1 + 1e-12));
      const scale = Math.min(1, max / (norm(before) + 1e-6)); // torch.nn.utils.clip_grad_norm_
      for (const [i, b] of before.entries()) expect(after[i]).toBeCloseTo(b * scale, 12);
      if (norm(before) + 1e-6 <= max) expect(after).toEqual(before);
    }));
  test('the norm it reports is of all gradients before clipping', async () => {
    const t = await vectorTrainer(vector([0, 0]), sgd({ lr: 1 }), { clip: clipByNorm(1) });
    const { norm } = await t.step(pull([3, 4]));
    expect(norm).toBeCloseTo(5, 12);
    const { w } = (await t.state()).values;
    expect(w!.data[0]).toBeCloseTo(-0.6, 6);
    expect(w!.data[1]).toBeCloseTo(-0.8, 6);
  });
  test('zero gradients stay zero', async () => {
    const g = new Map([...gradients(1, 1)].map(([p, t]) => [p, t.mul(0)]));
    expect((await numbers(clipByNorm(1)(g).grads)).every((x) => x === 0)).toBe(true);
  });
});

test('by value: each number is limited by itself', () =>
  law(clipByValue, (before, after, max) => {
    expect(after).toEqual(before.map((b) => Math.min(max, Math.max(-max, b))));
  }));

test.each([0, -1, Number.NaN, Number.POSITIVE_INFINITY])('a limit of %s is refused', (max) => {
  expect(() => clipByNorm(max)).toThrow(/clipByNorm: the limit must be a number above 0/);
  expect(() => clipByValue(max)).toThrow(/clipByValue: the limit must be a number above 0/);
});
