// A program's page, its row in the index, and the same facts for a terminal.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type Program, programs } from '../peft/lists/programs.ts';
import { link, STARTS, WRITTEN, wrapped } from './methodDetails.ts';
import { reported } from './methodNotes.ts';
import { sourceOf } from './methodRows.ts';
import { docstringOf, headerOf } from './methodSource.ts';
import { pageName } from './methodTrained.ts';
import type { Judge } from './notes/note.ts';
import { programNotes } from './notes/programs.ts';

const sentence = (text: string): string => `${text[0]!.toUpperCase()}${text.slice(1).replace(/\.$/, '')}.`;
const START = {
  bitwise: 'Before any training the network computes what the base computes, bit for bit.',
  close: 'Before any training the network computes what the base computes, up to rounding.',
  no: 'What it computes differs from what the base computes.',
} as const;

/** Titles of a judge's tests, as they stand in the file. Needs the repository: a package has no tests. */
export function testsOf({ file, tests = '' }: Judge): string[] {
  const text = readFileSync(fileURLToPath(new URL(`../${file}`, import.meta.url)), 'utf8');
  let group = '';
  return [...text.matchAll(/^( *)(describe|it|test)(?:\.each\(\w+\))?\(\s*'(.+?)',/gm)].flatMap(([, indent, kind, title = '']) => {
    if (indent === '') group = kind === 'describe' ? `${title} ` : '';
    return kind !== 'describe' && `${group}${title}`.startsWith(tests) ? [title.replace('$name', 'each small network')] : [];
  });
}

/** A program's page. */
export function programPage(p: Program): string {
  const [source, note] = [sourceOf(p), programNotes[p.name]!];
  const { says, equation, rest } = headerOf(source);
  return [
    `# ${p.name}`,
    '',
    WRITTEN,
    '',
    sentence(p.says),
    '',
    `program, ${p.family} · on ${p.place} · [${p.paper}](${link(p.paper)}) · [${p.file}](../../${p.file})`,
    '',
    '## Equation',
    '',
    '```text',
    ...equation,
    '```',
    '',
    `${says} ${rest}`,
    '',
    '## When to use it',
    '',
    note.use,
    '',
    '## What it takes and gives',
    '',
    docstringOf(source, p.name)!,
    '',
    START[p.startsAsBase],
    '',
    '## Count',
    '',
    `${p.count}.`,
    '',
    '## Merging',
    '',
    note.merging,
    '',
    '## What is reported',
    '',
    ...reported(p.name),
    '',
    '## What judges it',
    '',
    `It is no single attachment, and not in the list that the [laws of methods](../../test/laws/methodLaws.ts) go through. ${note.laws}`,
    '',
    ...note.judges.flatMap((j) => [`In [${j.file}](../../${j.file}):`, '', ...testsOf(j).map((t) => `* ${t}`), '']),
    '## Source',
    '',
    '```ts',
    source.trimEnd(),
    '```',
    '',
  ].join('\n');
}

/** The index's section. */
export const programIndex = (): string[] => [
  '## Programs',
  '',
  'Recipes of several stages, functions of trained models, ways to train any method, LoRA on a base that is packed first: none is a single attachment, so that they have no numbers on the network above.',
  '',
  '| program | works on | paper | count | merges | starts as base | what it does |',
  '| --- | --- | --- | --- | --- | --- | --- |',
  ...programs.map(
    (p) =>
      `| [${p.name}](methods/${pageName(p.name)}) | ${p.place} | [${p.paper.replace('arXiv:', '').replace('https://', '')}](${link(p.paper)}) | ${p.count} | ${p.mergeable ? 'yes' : 'no'} | ${p.startsAsBase} | ${p.says} |`,
  ),
  '',
];

/** One program for a terminal. */
export function programDetails(p: Program): string {
  const [source, note] = [sourceOf(p), programNotes[p.name]!];
  const { says, equation, rest } = headerOf(source);
  const block = (label: string, text: string): string[] => [label, wrapped(text, 108, '  '), ''];
  return [
    `${p.name}  (program, ${p.family})`,
    wrapped(sentence(p.says), 110, ''),
    '',
    ...equation.map((l) => `  ${l}`),
    '',
    wrapped(`${says} ${rest}`, 110, ''),
    '',
    wrapped(docstringOf(source, p.name)!, 110, ''),
    '',
    ...block('when to use it', note.use),
    ...block('merging', note.merging),
    ...block('laws', note.laws),
    `works on  ${p.place}`,
    `count     ${p.count}`,
    `starts    ${STARTS[p.startsAsBase]}`,
    `paper     ${link(p.paper)}`,
    `file      ${p.file}`,
    ...note.judges.map(
      (j, k) => `${k === 0 ? 'tests ' : '      '}    npx vitest run ${j.file}${j.tests === undefined ? '' : ` -t '${j.tests}'`}`,
    ),
  ].join('\n');
}
