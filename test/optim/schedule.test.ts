// Laws of learning-rate schedules: bounds, ends, direction, no jumps; and the formulas of PyTorch and Transformers.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { constant, cosine, inverseSquareRoot, linear, oneCycle, polynomial, type Schedule, warmup } from '../../optim/schedule.ts';

const end = fc.double({ min: 0, max: 1, noNaN: true });
const decays: Record<string, (end: number) => Schedule> = {
  linear: (e) => linear({ end: e }),
  cosine: (e) => cosine({ end: e }),
  polynomial: (e) => polynomial({ end: e }),
  'polynomial 0.5': (e) => polynomial({ end: e, power: 0.5 }),
};
const totals = fc.integer({ min: 1, max: 40 });
const values = (s: Schedule, total: number): number[] => Array.from({ length: total }, (_, k) => s({ step: k + 1, total }));

describe.each(Object.entries(decays))('%s', (name, make) => {
  test('starts at 1, would end at `end`, never rises, stays between', () =>
    fc.assert(
      fc.property(totals, end, (total, e) => {
        const s = make(e);
        const v = values(s, total);
        expect(v[0]).toBeCloseTo(1, 12);
        expect(s({ step: total + 1, total })).toBeCloseTo(e, 12);
        expect(s({ step: 10 * total, total })).toBeCloseTo(e, 12); // and stays there
        for (const [k, x] of v.entries()) {
          expect(x).toBeGreaterThanOrEqual(e - 1e-12);
          expect(x).toBeLessThanOrEqual(k === 0 ? 1 + 1e-12 : v[k - 1]! + 1e-12);
        }
      }),
    ));
  test('more steps, smaller jumps', () => {
    const jump = (total: number): number => {
      const v = values(make(0), total);
      return Math.max(...v.slice(1).map((x, k) => Math.abs(x - v[k]!)));
    };
    expect(jump(4000)).toBeLessThan(jump(1000) * (name === 'polynomial 0.5' ? 0.51 : 0.26));
  });
  test('needs to know the number of steps', () => {
    expect(() => make(0)({ step: 1, total: Number.POSITIVE_INFINITY })).toThrow(/how many steps there will be; give the trainer total: n/);
  });
});

test('constant is 1', () => expect(values(constant(), 5)).toEqual([1, 1, 1, 1, 1]));

test('linear may start elsewhere', () => {
  const s = linear({ start: 0.5, end: 1 });
  expect(s({ step: 1, total: 10 })).toBe(0.5);
  expect(s({ step: 6, total: 10 })).toBeCloseTo(0.75, 12);
});

test('inverse square root: 1 at first, 1/√2 after `timescale` steps, 1/2 after three times as many', () => {
  const s = inverseSquareRoot({ timescale: 50 });
  const at = (step: number): number => s({ step, total: Number.POSITIVE_INFINITY });
  expect(at(1)).toBe(1);
  expect(at(51)).toBeCloseTo(Math.SQRT1_2, 12);
  expect(at(151)).toBeCloseTo(0.5, 12);
  expect(() => inverseSquareRoot({ timescale: 0 })).toThrow(/timescale must be above 0/);
});

describe('warm-up', () => {
  test('rises in equal steps to the start of what follows, then is that', () =>
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 20 }), fc.integer({ min: 1, max: 50 }), (w, rest) => {
        const inner = cosine({ end: 0.1 });
        const s = warmup(w, inner);
        const total = w + rest;
        for (let step = 1; step <= w; step++) expect(s({ step, total })).toBeCloseTo(step / w, 12);
        for (let k = 1; k <= rest; k++) expect(s({ step: w + k, total })).toBe(inner({ step: k, total: rest }));
      }),
    ));
  test('warm-up then linear decay is that of Transformers, one step earlier in the rise', () => {
    const [w, total] = [4, 20];
    const s = warmup(w, linear());
    const theirs = (current: number): number => Math.max(0, (total - current) / (total - w)); // for current ≥ w, from 0
    for (let step = w + 1; step <= total; step++) expect(s({ step, total })).toBeCloseTo(theirs(step - 1), 12);
    expect(s({ step: 1, total })).toBe(1 / 4); // no step is wasted on a rate of 0
  });
  test('with an inverse square root of the same length it is the Transformer paper’s, up to its peak', () => {
    const w = 30;
    const s = warmup(w, inverseSquareRoot({ timescale: w }));
    const paper = (step: number): number => Math.sqrt(w) * Math.min(step ** -0.5, step * w ** -1.5);
    for (let step = 1; step <= w; step++) expect(s({ step, total: 1e9 })).toBeCloseTo(paper(step), 12);
    for (let step = w + 1; step < 300; step++) expect(s({ step, total: 1e9 })).toBeCloseTo(paper(step - 1), 12); // from its start at 1
  });
  test('refuses half steps', () => expect(() => warmup(1.5)).toThrow(/steps must be a whole number from 0, got 1.5/));
});

describe('one cycle', () => {
  // torch.optim.lr_scheduler.OneCycleLR, two phases along cosines; step_num counts from 0
  const theirs = (n: number, total: number, rise: number, div: number, finalDiv: number): number => {
    const anneal = (start: number, stop: number, pct: number): number => stop + ((start - stop) / 2) * (Math.cos(Math.PI * pct) + 1);
    const [first, second] = [rise * total - 1, total - 1];
    return n <= first ? anneal(1 / div, 1, n / first) : anneal(1, 1 / div / finalDiv, (n - first) / (second - first));
  };
  test('is PyTorch’s', () =>
    fc.assert(
      fc.property(fc.integer({ min: 10, max: 60 }), fc.constantFrom(0.2, 0.3, 0.5), (total, rise) => {
        const v = values(oneCycle({ rise, div: 10, finalDiv: 100 }), total);
        for (const [n, x] of v.entries()) expect(x).toBeCloseTo(theirs(n, total, rise, 10, 100), 12);
      }),
    ));
  test('starts at 1/div, peaks at no more than 1, ends at 1/(div·finalDiv)', () =>
    fc.assert(
      fc.property(fc.integer({ min: 10, max: 80 }), (total) => {
        const v = values(oneCycle(), total);
        expect(v[0]).toBeCloseTo(1 / 25, 12);
        expect(v.at(-1)).toBeCloseTo(1 / 25e4, 12);
        expect(Math.max(...v)).toBeLessThanOrEqual(1);
        expect(Math.max(...v)).toBeGreaterThan(0.8);
      }),
    ));
  test('a cycle of few steps is still a number between 0 and 1', () => {
    for (let total = 1; total < 6; total++) for (const x of values(oneCycle(), total)) expect(x >= 0 && x <= 1).toBe(true);
  });
});
