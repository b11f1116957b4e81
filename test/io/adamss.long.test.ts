// AdaMSS's clusters for weights as large as trained networks have: those that PEFT made are among the ways found here, and their sizes choose them.
import { expect, test } from 'vitest';
import { type AdamssFixture, madeAgain } from '../oracle/adamss.ts';
import { fixture } from '../oracle/fixtures.ts';

const sizes = (labels: string): string => Array.from('01234567', (k) => labels.split(k).length - 1).join();

test.each(fixture<AdamssFixture>('adamss').large)('$out × $into, falling: $falling', (c) => {
  const ways = madeAgain(c);
  expect(ways.filter((w) => sizes(w) === sizes(c.labels))).toEqual([c.labels]);
});
