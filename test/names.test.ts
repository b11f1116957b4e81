// Every name that Hugging Face PEFT, AdapterHub and the survey have is a method or a program here, and every one here has a place in these lists.
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { methods } from '../peft/all.ts';
import { programs } from '../peft/lists/programs.ts';
import { adapterHub, huggingFace, others, survey } from './names.ts';

const here = new Set([...methods, ...programs].map((m) => m.name));
const lists = { 'Hugging Face PEFT': huggingFace, AdapterHub: adapterHub, 'the survey': survey };

describe.each(Object.entries(lists))('%s', (_, list) => {
  it('names nothing that is missing here', () => {
    expect(list.filter(([, ours]) => !here.has(ours)).map(([theirs, ours]) => `${theirs}: ${ours}`)).toEqual([]);
  });
  it('names nothing twice', () => {
    expect(new Set(list.map(([theirs]) => theirs)).size).toBe(list.length);
  });
});

it('PEFT has 44 types, and no list loses a name unseen', () => {
  expect(huggingFace.filter(([theirs]) => /^[A-Z0-9_]+$/.test(theirs)).length).toBe(44);
  expect([huggingFace, adapterHub, survey].map((list) => list.length)).toEqual([65, 23, 96]);
});
it('a method is on one screen: 20 to 80 lines, half of all 60 or fewer', () => {
  const files = [...methods, ...programs].map((m) => m.file).filter((file) => file.startsWith('peft/'));
  const lines = new Map(files.map((file) => [file, readFileSync(file, 'utf8').split('\n').length - 1]));
  expect([...lines].filter(([, n]) => n < 20 || n > 80)).toEqual([]);
  const sorted = [...lines.values()].sort((a, b) => a - b);
  expect(sorted[Math.floor(sorted.length / 2)]).toBeLessThanOrEqual(60);
});
it('nothing here is without a place in a list', () => {
  const named = new Set([...Object.values(lists).flatMap((l) => l.map(([, ours]) => ours)), ...others]);
  expect([...here].filter((name) => !named.has(name))).toEqual([]);
  expect(others.filter((name) => !here.has(name))).toEqual([]);
});
