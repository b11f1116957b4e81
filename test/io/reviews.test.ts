// Labelled texts: the shipped reviews, JSON lines with every error by its line, the split, and batches by length.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { amazonFile } from '../../cli/task.ts';
import { rng } from '../../core/rng.ts';
import { batchOf, type Encoded, epochs, inBuckets, inLengthOrder, realTokens } from '../../io/batches.ts';
import { parseLabelled, readAmazon, readLabelled, splitExamples } from '../../io/reviews.ts';

describe('the Amazon sentences', () => {
  test('are 1,000, half of them positive, and keep 200 aside, always the same', async () => {
    const { labels, examples } = await readAmazon(amazonFile());
    expect(labels).toEqual(['negative', 'positive']);
    expect(examples).toHaveLength(1000);
    expect(examples.filter((e) => e.label === 1)).toHaveLength(500);
    const s = splitExamples(examples, { held: 200, seed: 0 });
    expect([s.train.length, s.held.length]).toEqual([800, 200]);
    expect(splitExamples(examples, { held: 200, seed: 0 })).toEqual(s);
    expect(splitExamples(examples, { held: 200, seed: 1 }).held).not.toEqual(s.held);
    const texts = (of: typeof s.held): Set<string> => new Set(of.map((e) => e.text.toLowerCase().trim()));
    expect([...texts(s.held)].filter((t) => texts(s.train).has(t))).toEqual([]);
  });
});

describe('JSON lines', () => {
  const parse = (text: string): ReturnType<typeof parseLabelled> => parseLabelled(text, 'mine.jsonl');
  test('labels are names or numbers, in their order; empty lines do not count', () => {
    expect(parse('{"text":"a","label":"no"}\n\n{"text":"b","label":"maybe"}\r\n{"text":"c","label":"no"}\n')).toEqual({
      labels: ['maybe', 'no'],
      examples: [
        { text: 'a', label: 1 },
        { text: 'b', label: 0 },
        { text: 'c', label: 1 },
      ],
    });
    expect(parse('{"text":"a","label":10}\n{"text":"b","label":9}').labels).toEqual(['9', '10']);
  });
  test('every bad line is named, with what is wrong', () => {
    const bad = [
      '{"text":"a","label":1}',
      'text,label',
      '["a", 1]',
      '{"label":1}',
      '{"text":7,"label":1}',
      '{"text":"  ","label":1}',
      '{"text":"a"}',
      '{"text":"a","label":0.5}',
      '{"text":"a","label":"1"}',
    ].join('\n');
    expect(() => parse(bad)).toThrow(
      /^mine\.jsonl: .*\n {2}line 2: is not JSON\n {2}line 3: is not an object\n {2}line 4: has no text\n {2}line 5: text is not a string\n {2}line 6: text is empty\n {2}line 7: has no label\n {2}line 8: label is 0\.5; .*\n {2}line 9: label is a string, earlier ones are numbers$/,
    );
    expect(() => parse('x\n'.repeat(40))).toThrow(/line 10: is not JSON\n {2}… and 30 more$/);
    expect(() => parse('{"text":"a","label":1}')).toThrow(/1 lines with one label, 1; a classifier needs two or more/);
    expect(() => parse('')).toThrow(/0 lines with no label/);
  });
  test('a file that is not there', async () => {
    await expect(readLabelled('/nowhere/mine.jsonl')).rejects.toThrow(/ENOENT.*mine\.jsonl/);
  });
});

test('the split parts the examples, whatever they are', () => {
  fc.assert(
    fc.property(
      fc.array(fc.constantFrom('a', 'A ', 'b', 'c  d', 'c d', 'e', 'f'), { minLength: 2, maxLength: 30 }),
      fc.nat(),
      fc.nat(),
      (texts, n, seed) => {
        const examples = texts.map((text, label) => ({ text, label }));
        const held = 1 + (n % (texts.length - 1));
        const s = splitExamples(examples, { held, seed });
        expect([...s.train, ...s.held].map((e) => e.label).sort((a, b) => a - b)).toEqual(examples.map((e) => e.label));
        expect(s.held.length).toBeLessThanOrEqual(held);
        const keys = new Set(s.train.map((e) => e.text.toLowerCase().split(/\s+/).join(' ').trim()));
        for (const e of s.held) expect(keys).not.toContain(e.text.toLowerCase().split(/\s+/).join(' ').trim());
      },
    ),
  );
  expect(() => splitExamples([{ text: 'a', label: 0 }], { held: 1, seed: 0 })).toThrow(/1 of 1 examples cannot be kept aside/);
});

describe('batches', () => {
  const texts = (n: number, seed: number): Encoded[] => {
    const r = rng(seed);
    return Array.from({ length: n }, (_, k) => ({ ids: new Int32Array(1 + r.below(40)).fill(k + 1), label: k % 3 }));
  };
  test('padded to a multiple, with a mask of what is real', () => {
    const b = batchOf(
      [
        { ids: Int32Array.of(7, 8), label: 1 },
        { ids: Int32Array.of(9, 9, 9, 9, 9), label: 0 },
      ],
      4,
    );
    expect(b.ids).toEqual({ data: Int32Array.of(7, 8, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9, 9, 0, 0, 0), shape: [2, 8] });
    expect(Array.from(b.keyMask.data)).toEqual([1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0]);
    expect(Array.from(b.labels.data)).toEqual([1, 0]);
    expect(realTokens(b)).toBe(7);
  });
  test('every epoch has each text once, whatever the numbers; a step always has the same batch', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 40 }),
        fc.integer({ min: 1, max: 9 }),
        fc.constantFrom(1, 4, 8, 16),
        fc.nat(),
        (n, rows, multiple, seed) => {
          const all = texts(n, seed);
          const e = epochs(all, { rows, multiple, seed });
          expect(e.perEpoch).toBe(Math.ceil(n / rows));
          const batches = Array.from({ length: 2 * e.perEpoch }, (_, k) => e.at(k + 1));
          const first = (b: (typeof batches)[number]): number[] => Array.from(b.labels.data, (_, k) => b.ids.data[k * b.ids.shape[1]!]!);
          for (const half of [batches.slice(0, e.perEpoch), batches.slice(e.perEpoch)]) {
            expect(half.flatMap(first).sort((a, b) => a - b)).toEqual(all.map((_, k) => k + 1));
            expect(half.reduce((m, b) => m + realTokens(b), 0)).toBe(all.reduce((m, t) => m + t.ids.length, 0));
          }
          const again = epochs(all, { rows, multiple, seed });
          const step = 1 + (seed % batches.length);
          expect(again.at(step)).toEqual(batches[step - 1]);
        },
      ),
      { numRuns: 40 },
    );
  });
  test('buckets leave little padding: at most one batch spans two', () => {
    const all = texts(96, 1);
    const padded = inLengthOrder(all, { rows: 8, multiple: 8 }).reduce((n, b) => n + b.ids.data.length, 0);
    const ideal = all.reduce((n, t) => n + Math.ceil(t.ids.length / 8) * 8, 0);
    expect(padded).toBeGreaterThanOrEqual(ideal);
    expect(padded).toBeLessThanOrEqual(ideal + 5 * 7 * 8); // five buckets: a batch across a border widens at most seven texts by 8
    expect(inBuckets(all, { rows: 8, multiple: 8 }).flat()).toHaveLength(96);
  });
  test('refuse nothing to train on, and rows that are no number', () => {
    expect(() => epochs([], { rows: 8, multiple: 8, seed: 0 })).toThrow(/no texts/);
    expect(() => epochs(texts(3, 0), { rows: 0, multiple: 8, seed: 0 })).toThrow(/0 rows/);
  });
});
