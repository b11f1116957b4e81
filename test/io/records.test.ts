// Training texts from files: every kind comes back as it was written, and every bad line is named by its number and its fault.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseRecords, readRecords, type TextRecord } from '../../io/records.ts';

let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tinypeft-records-'));
});
afterAll(() => rm(folder, { recursive: true }));

const word = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 12 }).filter((s) => s.trim() !== '');
const message = fc.record({ role: fc.constantFrom('system', 'user', 'assistant', 'tool'), content: fc.string({ unit: 'grapheme' }) });
const kinds: Readonly<Record<TextRecord['kind'], fc.Arbitrary<TextRecord>>> = {
  text: word.map((text) => ({ kind: 'text', text })),
  pair: fc.tuple(word, word).map(([prompt, completion]) => ({ kind: 'pair', prompt, completion })),
  label: fc.tuple(word, word).map(([text, label]) => ({ kind: 'label', text, label })),
  chat: fc
    .tuple(fc.array(message, { maxLength: 3 }), fc.string())
    .map(([before, content]) => ({ kind: 'chat', messages: [...before, { role: 'assistant', content }] })),
};
const plain = ({ kind: _, ...fields }: TextRecord): object => fields;
const quoted = (s: string): string => `"${s.replaceAll('"', '""')}"`;

describe('what is written is read', () => {
  for (const [kind, one] of Object.entries(kinds))
    test(`JSON lines of ${kind}`, () =>
      fc.assert(
        fc.property(fc.array(one, { minLength: 1, maxLength: 5 }), fc.constantFrom('\n', '\r\n', '\n\n'), (records, end) => {
          expect(parseRecords(records.map((r) => JSON.stringify(plain(r))).join(end), 'f.jsonl')).toEqual(records);
        }),
        { numRuns: 40 },
      ));

  test('tables of labels and pairs, with commas, quotes and line breaks inside', () =>
    fc.assert(
      fc.property(fc.constantFrom('label', 'pair'), fc.constantFrom(',', '\t'), fc.gen(), (kind, by, g) => {
        const records = g(() => fc.array(kinds[kind], { minLength: 1, maxLength: 5 }));
        const names = Object.keys(plain(records[0]!));
        const rows = records.map((r) => names.map((n) => quoted((plain(r) as Record<string, string>)[n]!)).join(by));
        expect(parseRecords(`\ufeff${[names.join(by), ...rows].join('\n')}\n`, by === ',' ? 'f.csv' : 'f.tsv')).toEqual(records);
      }),
      { numRuns: 60 },
    ));

  test('prose is one record; numbers are labels; unknown fields and empty labels are nothing', () => {
    expect(parseRecords('a\n\nb', 'f.md')).toEqual([{ kind: 'text', text: 'a\n\nb' }]);
    expect(parseRecords('{"text":"a","label":3,"id":9}', 'f.jsonl')).toEqual([{ kind: 'label', text: 'a', label: '3' }]);
    expect(parseRecords('{"text":"a","label":null}\n{"text":"b","label":""}', 'f.ndjson').map((r) => r.kind)).toEqual(['text', 'text']);
  });
});

test('bytes that are no UTF-8 are refused with the place of the first one; a mark in front is no text', () =>
  fc.assert(
    fc.asyncProperty(
      fc.string({ unit: 'grapheme' }),
      fc.constantFrom([0xe9], [0xff], [0xef, 0xbf], [0xc3, 0x28], [0xed, 0xa0, 0x80]),
      async (s, bad) => {
        const before = Buffer.from(`a${s}`);
        const path = join(folder, 'f.txt');
        await writeFile(path, Buffer.concat([before, Buffer.from(bad), Buffer.from(' and more')]));
        const at = new RegExp(`f.txt: is not UTF-8: byte ${before.length} \\(0x${bad[0]!.toString(16)}\\) begins no character.*iconv`);
        await expect(readRecords(path)).rejects.toThrow(at);
        await writeFile(path, Buffer.concat([Buffer.from([0xef, 0xbb, 0xbf]), before]));
        expect(await readRecords(path)).toEqual([{ kind: 'text', text: `a${s}` }]);
      },
    ),
    { numRuns: 40 },
  ));
test('UTF-16, a folder, nothing', async () => {
  await writeFile(join(folder, 'f.csv'), Buffer.from('\ufefftext\na', 'utf16le'));
  await expect(readRecords(join(folder, 'f.csv'))).rejects.toThrow(
    /byte 0 \(0xff\) begins no character; it looks like UTF-16\. .*iconv -f UTF-16/,
  );
  await expect(readRecords(folder)).rejects.toThrow(/is a folder; name a file of texts/);
  await expect(readRecords(join(folder, 'no.txt'))).rejects.toThrow(/no.txt: no such file/);
});

describe('what is wrong is named by line', () => {
  const said = (content: string, path: string): string => {
    try {
      parseRecords(content, path);
    } catch (e) {
      return (e as Error).message;
    }
    return 'read';
  };
  const cases: readonly (readonly [content: string, path: string, what: RegExp])[] = [
    ['{"text":"a"}\nnope', 'f.jsonl', /line 2: is not JSON/],
    ['{"text":"a"}\n\n[1]', 'f.jsonl', /line 3: is not an object/],
    ['{"text":"a"}\n{"prompt":"a","completion":"b"}', 'f.jsonl', /line 2: is \{"prompt".*earlier lines are \{"text".*one kind/],
    ['{"prompt":"a"}', 'f.jsonl', /line 1: has a prompt but no completion/],
    ['{"completion":"a"}', 'f.jsonl', /line 1: has a completion but no prompt/],
    ['{"text":"  "}', 'f.jsonl', /line 1: its text is empty/],
    ['{"note":"a"}', 'f.jsonl', /line 1: has neither text nor prompt nor messages/],
    ['{"text":"a","label":0.5}', 'f.jsonl', /line 1: label is 0.5; it must be a text or a whole number/],
    ['{"messages":[]}', 'f.jsonl', /line 1: messages is no list, or empty/],
    ['{"messages":[{"role":"bot","content":"a"}]}', 'f.jsonl', /line 1: message 0: role must be one of system, user, assistant, tool/],
    ['{"messages":[{"role":"user","content":1}]}', 'f.jsonl', /line 1: message 0: content must be a text/],
    ['{"messages":[{"role":"user","content":"a"}]}', 'f.jsonl', /line 1: no message is the assistant/],
    ['text,label\na,b\nc', 'f.csv', /f.csv: one line is no record\n {2}line 3: has 1 field, the header has 2 \(text, label\)/],
    ['text,label\n"a,b\n\nc,d\n', 'f.csv', /one line is no record\n {2}line 2: a quote is never closed in "\\"a,b"/],
    [
      'text,label\n"a"b,c\nd,e,f\n',
      'f.csv',
      /line 2: a quoted field goes on behind the quote that closes it.* in "\\"a\\"b,c"\n {2}line 3: has 3 fields/,
    ],
    ['text,label\r\n"a\r\nb",c\r\nd\r\n', 'f.csv', /one line is no record\n {2}line 4: has 1 field/],
    ['text\tlabel\nsay "a"\tb\n', 'f.tsv', /line 2: a quote stands inside a field.* in "say \\"a\\"\\tb"/],
    ['text,text\na,b\nc', 'f.csv', /one line is no record\n {2}line 1: the header names "text" twice/],
    ['"text,label\na,b', 'f.csv', /one line is no record\n {2}line 1: a quote is never closed in "\\"text,label"/],
    ['', 'f.jsonl', /there is no record in it/],
    ['text,label\n', 'f.csv', /there is no record in it/],
    [' \n', 'f.txt', /f.txt: is empty/],
    ['a', 'f.pdf', /f.pdf: is .pdf; data are read from/],
    ['a', 'f', /without an ending/],
  ];
  for (const [content, path, what] of cases)
    test(`${path}: ${JSON.stringify(content).slice(0, 60)}`, () => expect(said(content, path)).toMatch(what));

  test('of a table, every bad line and no other, whatever surrounds it', () => {
    const wordy = word.map((w) => `w${w}`); // a comma first would end what an open quote before it began: a table like any other
    const good = fc.tuple(wordy, wordy).map((fields) => ({ text: fields.map(quoted).join(','), bad: false }));
    const faults = fc.constantFrom('a', 'a,b,c', '"a"b,c', 'say "a",b', '"a,b'); // the last swallows what follows, up to the next quote
    const bad = faults.map((text) => ({ text, bad: true }));
    const lines = fc.array(fc.oneof(good, bad, fc.constant({ text: '', bad: false })), { minLength: 1, maxLength: 9 });
    fc.assert(
      fc.property(lines, fc.constantFrom('\n', '\r\n'), (all, end) => {
        const expected: number[] = [];
        let line = 2;
        for (const l of all) {
          if (l.bad) expected.push(line);
          line += 1 + (l.text.match(/\r\n|\r|\n/g)?.length ?? 0);
        }
        const text = said(['text,label', ...all.map((l) => l.text)].join(end), 'f.csv');
        expect([...text.matchAll(/^ {2}line (\d+):/gm)].map((m) => Number(m[1]))).toEqual(expected);
      }),
      { numRuns: 300 },
    );
  });

  test('of many, the first ten, and how many more', () => {
    const text = said(Array.from({ length: 25 }, () => '0').join('\n'), 'f.jsonl');
    expect(text).toMatch(/25 lines are no record/);
    expect(text.match(/line \d+:/g)).toHaveLength(10);
    expect(text).toMatch(/… and 15 more/);
  });

  test('keys that would reach a prototype are fields like any other', () => {
    const [r] = parseRecords('{"text":"a","__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}}}', 'f.jsonl');
    expect(r).toEqual({ kind: 'text', text: 'a' });
    expect(({} as { polluted?: number }).polluted).toBeUndefined();
    expect(parseRecords('text,__proto__\na,b', 'f.csv')).toEqual([{ kind: 'text', text: 'a' }]);
  });
});
