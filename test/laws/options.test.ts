// Every option of every method: a value it cannot use is refused before anything is built, with method, option and remedy; what it lists, it takes.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { methods } from '../../peft/all.ts';
import type { Takes } from '../../peft/options.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { loraDrop } from '../../peft/reparameterized/loraDrop.ts';
import { gpt2Network } from './models.ts';

/** An option that can be written in a file, with its default. */
interface Option {
  readonly method: (typeof methods)[number];
  readonly name: string;
  readonly value: unknown;
  readonly takes: readonly unknown[] | undefined;
}
const options: readonly Option[] = methods.flatMap((method) => {
  const made = method.configurable?.method;
  return Object.entries({ ...made?.defaults, seed: 0 }).map(([name, value]) => ({ method, name, value, takes: made?.takes?.[name] }));
});
const scalar = (v: unknown): boolean => v === null || typeof v !== 'object';

/** Refused by the method's name and the option's, in a sentence that says what it may be. Not a TypeError from further down. */
function refused({ method, name }: Option, value: unknown, more: object = {}): void {
  const give = (): unknown => method.configured({ ...more, [name]: value });
  expect(give, `${method.name}.${name} = ${String(value)}`).toThrow(RangeError);
  expect(give).toThrow(new RegExp(`^${method.name.replaceAll('+', '\\+')}: (there is no option )?${name}\\b.*(must be|nearest)`));
}

const words = fc.stringMatching(/^[a-z][a-zA-Z0-9]{0,11}$/);
const notFinite = fc.constantFrom(Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY);

describe('every option of every method', () => {
  it('is refused as a number that is not finite, alone or within a list or an object', () => {
    for (const o of options)
      fc.assert(
        fc.property(notFinite, fc.boolean(), (v, within) => refused(o, within && !scalar(o.value) ? [{ rank: v }] : v)),
        { numRuns: 3 },
      );
  });
  it('is refused as a word that is not one of its own', () => {
    for (const o of options.filter(({ name, takes }) => name !== 'where' && !takes?.includes(String)))
      fc.assert(
        fc.property(words, (word) => {
          fc.pre(!o.takes?.includes(word));
          refused(o, word);
        }),
        { numRuns: 4 },
      );
  });
  it('is refused as undefined, and as null where that is none of its values', () => {
    for (const o of options) {
      refused(o, undefined);
      if (!o.takes?.includes(null)) refused(o, null);
    }
  });
  it('is refused under another name, with the nearest one there is', () => {
    for (const o of options) {
      expect(() => o.method.configured({ [`${o.name}s_`]: o.value })).toThrow(
        `${o.method.name}: there is no option ${o.name}s_; nearest: ${o.name}`,
      );
    }
  });
  it('takes its default, and every word and number that it lists', () => {
    for (const { method, name, value, takes } of options)
      for (const v of [value, ...(takes ?? []).filter((k) => typeof k !== 'function')])
        expect(() => method.configured({ [name]: v }), `${method.name}.${name} = ${String(v)}`).not.toThrow();
  });
  it('lists all it takes wherever its default is a word or null', () => {
    for (const { method, name, value, takes } of options)
      if ((typeof value === 'string' || value === null) && name !== 'where')
        expect(takes?.includes(value) || takes?.includes(String), `${method.name}.${name}: say in \`takes\` what it may be`).toBe(true);
  });
});

it('a method’s `takes` compiles only where it lists every value once, and no other', () => {
  type Config = { init: 'a' | 'b'; bits: 2 | 4; n: number; flag: boolean; list: readonly string[]; m: number | null; label: string };
  const whole = { init: ['b', 'a'], bits: [2, 4], m: [null, Number], label: [String] } as const;
  const lists: readonly Takes<Config>[] = [
    whole,
    // @ts-expect-error: 'b' is missing
    { ...whole, init: ['a'] },
    // @ts-expect-error: there is no 'c'
    { ...whole, init: ['a', 'b', 'c'] },
    // @ts-expect-error: 3 is not 4
    { ...whole, bits: [2, 3] },
    // @ts-expect-error: numbers are missing
    { ...whole, m: [null] },
    // @ts-expect-error: label is missing
    { init: ['a', 'b'], bits: [2, 4], m: [null, Number] },
  ];
  expect(lists).toHaveLength(6); // the law is what `npm run check` says of the lines above
});
it('an unknown word is answered with the nearest of those there are', () => {
  const zero = { init: 'gausian' } as never; // as from a JSON file
  expect(() => lora(zero)).toThrow("lora: init 'gausian' must be 'kaiming' or 'gaussian'; nearest: 'gaussian'. Its default is 'kaiming'");
});
it('loraDrop keeps only what is there', () => {
  const { base } = gpt2Network(1);
  expect(() => loraDrop({ rank: 2, keep: ['q', 'nope'] })(base)).toThrow(/loraDrop: keep nope matches none of the layers.*Nearest: q, v/);
  for (const keep of [[], ['q'], 'q', /0.*q$/, () => false]) expect(() => loraDrop({ rank: 2, keep })(base)).not.toThrow();
});
