// The sampler's laws: temperature, top-k and top-p as distributions, and one uniform number picking from them.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { rng } from '../../core/rng.ts';
import { distribution, pick } from '../../nn/sample.ts';
import { apart } from './models.ts';

const logits = fc.array(fc.double({ min: -8, max: 8, noNaN: true }), { minLength: 2, maxLength: 30 });
/** Few different values, so that ties are common. */
const tied = fc.array(fc.integer({ min: -2, max: 2 }), { minLength: 2, maxLength: 30 });
const total = (p: Iterable<number>): number => [...p].reduce((a, b) => a + b, 0);
const kept = (p: Float64Array): number[] => [...p.keys()].filter((i) => p[i]! > 0);

describe('distribution', () => {
  test('without options it is softmax', () =>
    fc.assert(
      fc.property(logits, (x) => {
        const z = total(x.map(Math.exp));
        expect(
          apart(
            distribution(x),
            x.map((v) => Math.exp(v) / z),
          ),
        ).toBeLessThan(1e-12);
      }),
    ));
  test('temperature divides: odds at 2 are the square roots of odds at 1', () =>
    fc.assert(
      fc.property(logits, (x) => {
        const [p, q] = [distribution(x, { temperature: 1 }), distribution(x, { temperature: 2 })];
        for (const i of q.keys()) expect(q[i]! / q[0]!).toBeCloseTo(Math.sqrt(p[i]! / p[0]!), 6);
      }),
    ));
  test('temperature 0 is all on the first of the largest', () =>
    fc.assert(
      fc.property(tied, (x) => {
        expect(kept(distribution(x, { temperature: 0, topK: 2, topP: 0.5 }))).toEqual([x.indexOf(Math.max(...x))]);
      }),
    ));
  test('topK keeps exactly k, none of them smaller than one left out, lower ids first among equals, shares unchanged', () =>
    fc.assert(
      fc.property(tied, fc.integer({ min: 1, max: 35 }), (x, k) => {
        const [p, all] = [distribution(x, { topK: k }), distribution(x)];
        const [inside, n] = [kept(p), Math.min(k, x.length)];
        expect(inside.length).toBe(n);
        const out = [...x.keys()].filter((i) => p[i] === 0);
        for (const i of inside) for (const o of out) expect(x[i]! > x[o]! || (x[i] === x[o] && i < o)).toBe(true);
        for (const i of inside) expect(p[i]! / p[inside[0]!]!).toBeCloseTo(all[i]! / all[inside[0]!]!, 9);
      }),
    ));
  test('topP keeps the fewest that reach p: without the least of them they fall short', () =>
    fc.assert(
      fc.property(logits, fc.double({ min: 0.01, max: 1, noNaN: true }), (x, topP) => {
        const [p, all] = [distribution(x, { topP }), distribution(x)];
        const shares = kept(p).map((i) => all[i]!);
        expect(total(shares)).toBeGreaterThanOrEqual(topP - 1e-12);
        expect(total(shares) - Math.min(...shares)).toBeLessThan(topP + 1e-12);
        expect(Math.max(...[...all].filter((_, i) => p[i] === 0), 0)).toBeLessThanOrEqual(Math.min(...shares));
      }),
    ));
  test('topP stops where it is reached exactly', () => {
    expect(kept(distribution([0, 0], { topP: 0.5 }))).toEqual([0]);
    expect(kept(distribution([0, 0, 0, 0], { topP: 0.75 }))).toEqual([0, 1, 2]);
  });
  test('topP counts shares of what topK left', () => {
    // 0.4 0.3 0.2 0.1; the top two are 4/7 and 3/7 of their sum, so 0.57 needs one of them and 0.58 both
    const x = [0.4, 0.3, 0.2, 0.1].map(Math.log);
    expect(kept(distribution(x, { topK: 2, topP: 0.57 }))).toEqual([0]);
    expect(kept(distribution(x, { topK: 2, topP: 0.58 }))).toEqual([0, 1]);
    expect(kept(distribution(x, { topP: 0.58 }))).toEqual([0, 1]);
  });
  test('probabilities add up to 1, also with logits far apart', () => {
    for (const x of [
      [1e4, 0, -1e4],
      [-1e9, -1e9, 5],
      [-1e30, -1e30],
    ])
      expect(total(distribution(x))).toBeCloseTo(1, 12);
  });
  test('a logit that is not a number is refused', () => {
    expect(() => distribution([0, Number.NaN, 1])).toThrow(/token 1 is NaN/);
  });
});

describe('pick', () => {
  test('u runs through the tokens in order, each over its share', () =>
    fc.assert(
      fc.property(logits, fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }), (x, u) => {
        const p = distribution(x);
        const i = pick(p, u);
        expect(u).toBeGreaterThanOrEqual(total(p.subarray(0, i)) - 1e-12);
        expect(u).toBeLessThan(total(p.subarray(0, i + 1)) + 1e-12);
      }),
    ));
  test('never a token of probability 0, at either end', () => {
    expect(pick([0, 0.5, 0.5, 0], 0)).toBe(1);
    expect(pick([0, 0.5, 0.5 - 1e-12, 0], 1 - 1e-13)).toBe(2);
  });
  test('frequencies are the probabilities', () => {
    const p = distribution([0, 1, 2, -1], { temperature: 1.5 });
    const [r, n] = [rng(1), 20_000];
    const counts = new Float64Array(4);
    for (let k = 0; k < n; k++) counts[pick(p, r.next())]!++;
    // four standard deviations of a binomial share are at most 4·√(¼/n) = 0.0142
    for (const i of p.keys()) expect(Math.abs(counts[i]! / n - p[i]!)).toBeLessThan(0.0142);
  });
});
