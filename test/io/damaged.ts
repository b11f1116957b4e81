// JSON files with values, names and places of their tree changed at random, and what every refusal of one must be.
import fc from 'fast-check';
import { expect } from 'vitest';

/** JSON with some of its values replaced, keys renamed, and at times its text cut. */
export const damaged = (text: string): fc.Arbitrary<string> => {
  const junk = fc.oneof(
    fc.constantFrom<unknown>(
      null,
      true,
      -1,
      0,
      1e308,
      1.5,
      '',
      '../../x',
      [],
      {},
      [[]],
      'constructor',
      '__proto__',
      Number.MAX_SAFE_INTEGER,
    ),
    fc.jsonValue({ maxDepth: 2 }),
  );
  const tree: unknown = JSON.parse(text);
  const paths: (readonly (string | number)[])[] = [];
  const walk = (v: unknown, path: readonly (string | number)[]): void => {
    paths.push(path);
    if (paths.length < 400 && typeof v === 'object' && v !== null) for (const [k, x] of Object.entries(v)) walk(x, [...path, k]);
  };
  walk(tree, []);
  const changed = fc
    .array(fc.tuple(fc.constantFrom(...paths), junk, fc.constantFrom('value', 'name', 'gone')), { minLength: 1, maxLength: 3 })
    .map((changes) => {
      const copy: unknown = structuredClone(tree);
      for (const [path, value, how] of changes) {
        const parent = path
          .slice(0, -1)
          .reduce<unknown>((v, k) => (typeof v === 'object' && v !== null ? (v as Record<string, unknown>)[k] : null), copy);
        const key = path.at(-1);
        if (key === undefined || typeof parent !== 'object' || parent === null) continue;
        if (Array.isArray(parent) && !/^\d+$/.test(String(key))) continue; // an earlier change put a list where the name was
        const o = parent as Record<string, unknown>;
        if (how === 'value')
          o[key] = structuredClone(value); // its own: the next change may change it
        else {
          if (how === 'name')
            Object.defineProperty(o, (typeof value === 'string' ? value : JSON.stringify(value)).slice(0, 40), {
              value: o[key],
              enumerable: true,
              configurable: true,
            });
          delete o[key];
        }
      }
      return JSON.stringify(copy);
    });
  const cut = fc.tuple(changed, fc.nat(text.length)).map(([t, n]) => t.slice(0, n));
  return fc.oneof({ arbitrary: changed, weight: 4 }, { arbitrary: cut, weight: 1 });
};
export const said = (e: unknown, file: string): void => {
  expect(e).toBeInstanceOf(Error);
  expect((e as Error).message).toContain(file);
  expect((e as Error).message.length).toBeLessThan(5000);
};
