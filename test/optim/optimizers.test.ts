// Every optimizer against a second implementation in plain loops, written from PyTorch's documentation of its algorithm.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { rng } from '../../core/rng.ts';
import { adam } from '../../optim/adam.ts';
import { adamw } from '../../optim/adamw.ts';
import type { Optimizer } from '../../optim/optimizer.ts';
import { sgd } from '../../optim/sgd.ts';
import { at, pull, vector, vectorTrainer } from './tiny.ts';

type Naive = (w: number[], gradients: readonly number[][]) => number[];

const sgdNaive =
  (c: { lr: number; momentum: number; dampening: number; nesterov: boolean; weightDecay: number }): Naive =>
  (start, gradients) =>
    start.map((w0, i) => {
      let w = w0;
      let buffer: number | null = null;
      for (const g of gradients) {
        let d = g[i]! + c.weightDecay * w;
        if (c.momentum !== 0) {
          buffer = buffer === null ? d : c.momentum * buffer + (1 - c.dampening) * d;
          d = c.nesterov ? d + c.momentum * buffer : buffer;
        }
        w -= c.lr * d;
      }
      return w;
    });
/** With m̂ and v̂ written out, as the papers do. */
const adamNaive =
  (c: { lr: number; beta1: number; beta2: number; eps: number; weightDecay: number }, decoupled: boolean): Naive =>
  (start, gradients) =>
    start.map((w0, i) => {
      let [w, m, v] = [w0, 0, 0];
      for (const [k, g] of gradients.entries()) {
        if (decoupled) w -= c.lr * c.weightDecay * w;
        const d = decoupled ? g[i]! : g[i]! + c.weightDecay * w;
        m = c.beta1 * m + (1 - c.beta1) * d;
        v = c.beta2 * v + (1 - c.beta2) * d ** 2;
        const mHat = m / (1 - c.beta1 ** (k + 1));
        const vHat = v / (1 - c.beta2 ** (k + 1));
        w -= (c.lr * mHat) / (Math.sqrt(vHat) + c.eps);
      }
      return w;
    });

const unit = fc.double({ min: 0, max: 0.99, noNaN: true });
const lr = fc.double({ min: 1e-4, max: 0.5, noNaN: true });
const weightDecay = fc.constantFrom(0, 0.01, 0.3);
const adamConfig = fc.record({ lr, weightDecay, beta1: unit, beta2: unit, eps: fc.constantFrom(1e-8, 1e-3) });
const sgdConfig = fc
  .record({ lr, weightDecay, momentum: fc.oneof(fc.constant(0), unit), dampening: fc.constantFrom(0, 0.4), nesterov: fc.boolean() })
  .map((c) => ({ ...c, nesterov: c.nesterov && c.momentum > 0 && c.dampening === 0 }));

async function agrees(optimizer: Optimizer, naive: Naive, seed: number, steps: number): Promise<void> {
  const r = rng(seed);
  const start = [...r.normal(5)];
  const gradients = Array.from({ length: steps }, (_, k) => [...r.normal(5)].map((x, i) => (k > 0 && i === 4 ? 0 : x))); // the last falls silent
  const t = await vectorTrainer(vector(start), optimizer);
  for (const g of gradients) await t.step(pull(g));
  const [got, want] = [await at(t), naive(start, gradients)];
  for (const [i, w] of want.entries())
    expect(Math.abs(got[i]! - w), `element ${i}: ${got[i]} and ${w}`).toBeLessThan(1e-12 * (1 + Math.abs(w)) * steps);
}

const seeds = fc.integer({ min: 0, max: 1e6 });
const steps = fc.integer({ min: 1, max: 6 });
const few = { numRuns: 40 };
describe('k steps are those of the naive implementation', () => {
  test('sgd', () =>
    fc.assert(
      fc.asyncProperty(sgdConfig, seeds, steps, (c, s, k) => agrees(sgd(c), sgdNaive(c), s, k)),
      few,
    ));
  test('adam', () =>
    fc.assert(
      fc.asyncProperty(adamConfig, seeds, steps, (c, s, k) => agrees(adam(c), adamNaive(c, false), s, k)),
      few,
    ));
  test('adamw', () =>
    fc.assert(
      fc.asyncProperty(adamConfig, seeds, steps, (c, s, k) => agrees(adamw(c), adamNaive(c, true), s, k)),
      few,
    ));
});

describe('what the papers say of the first steps', () => {
  test('the first step of Adam is lr·sign(g), whatever the size of g', async () => {
    const t = await vectorTrainer(vector([0, 0, 0]), adam({ lr: 0.1, eps: 1e-12 }));
    await t.step(pull([1e-3, -5, 2e4]));
    for (const [i, w] of (await at(t)).entries()) expect(w).toBeCloseTo([-0.1, 0.1, -0.1][i]!, 8);
  });
  test('AdamW with no gradient shrinks by 1 − lr·decay a step', async () => {
    const t = await vectorTrainer(vector([2]), adamw({ lr: 0.1, weightDecay: 0.5 }));
    for (let k = 0; k < 3; k++) await t.step(pull([0]));
    expect((await at(t))[0]).toBeCloseTo(2 * 0.95 ** 3, 12);
  });
  test('SGD without momentum keeps no state, with momentum one number per parameter', async () => {
    expect((await (await vectorTrainer(vector([1]), sgd())).state()).moments).toEqual({ w: {} });
    const t = await vectorTrainer(vector([1]), sgd({ momentum: 0.9 }));
    expect(Object.keys((await t.state()).moments.w!)).toEqual(['momentum']);
  });
});

describe('refused', () => {
  test.each([
    ['Nesterov without momentum', () => sgd({ nesterov: true }), /Nesterov needs momentum above 0/],
    ['Nesterov with dampening', () => sgd({ nesterov: true, momentum: 0.9, dampening: 0.1 }), /dampening 0, got 0.9 and 0.1/],
    ['a beta of 1', () => adam({ beta2: 1 }), /adam: beta2 must be at least 0 and below 1, got 1/],
    ['no eps', () => adamw({ eps: 0 }), /adamw: eps must be above 0/],
    ['a negative rate', () => adamw({ lr: -1 }), /adamw: lr must be 0 or more, got -1/],
    ['a rate that is no number', () => sgd({ lr: Number.NaN }), /sgd: lr must be 0 or more, got NaN/],
    ['negative decay', () => sgd({ weightDecay: -0.1 }), /weightDecay must be 0 or more/],
  ])('%s', (_, make, message) => {
    expect(make).toThrow(message);
  });
});
