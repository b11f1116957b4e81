// Programs for people: a note, a page and a row for each, judges that exist, and `show`.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { methodsCommand } from '../../cli/commands/methods.ts';
import { link } from '../../cli/methodDetails.ts';
import { withTable } from '../../cli/methodDocs.ts';
import { reported } from '../../cli/methodNotes.ts';
import { docstringOf, headerOf } from '../../cli/methodSource.ts';
import { trainedPage } from '../../cli/methodTrained.ts';
import { programNotes } from '../../cli/notes/programs.ts';
import { programDetails, programIndex, programPage, testsOf } from '../../cli/programDocs.ts';
import { methods } from '../../peft/all.ts';
import { programs } from '../../peft/lists/programs.ts';
import { said } from './tinypeft.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const read = (path: string): string => readFileSync(`${root}/${path}`, 'utf8');
const advice = 'run `npm run methods -- --docs` and commit docs/';

it('every program has a note, in which each result names where it was read, and nothing else has one', () => {
  expect(Object.keys(programNotes)).toEqual(programs.map((p) => p.name));
  for (const { name } of programs) {
    const { use, merging, laws } = programNotes[name]!;
    for (const text of [use, merging, laws]) expect(text, name).toMatch(/^[A-Z].{20,}\.$/);
    for (const line of reported(name)) expect(line, name).toMatch(/^\* .*\(.*(paper|repository|abstract).*\)$|could be read/);
  }
});

it('every program is judged by tests that are there, in files that use it', () => {
  for (const { name, file } of programs) {
    const { judges } = programNotes[name]!;
    expect(judges.length, name).toBeGreaterThan(0);
    for (const judge of judges) {
      expect(testsOf(judge).length, `${name}: ${judge.file}, ${judge.tests}`).toBeGreaterThan(0);
      expect(read(judge.file), `${name}: ${judge.file}`).toMatch(
        new RegExp(`import [^;]*\\b${name}(Recipe)?\\b[^;]*/${file.slice(file.lastIndexOf('/') + 1, -3)}(Recipe)?\\.ts'`),
      );
    }
  }
});

it('finds the tests of a group, of a title and of a whole file, on one line or two', () => {
  expect(testsOf({ file: 'test/laws/programs.test.ts', tests: 'mera' })).toEqual([
    'merged adapters keep the laws of one, on each small network',
  ]);
  expect(testsOf({ file: 'test/peft/sideNetworks.test.ts', tests: 'mera' })).toHaveLength(2);
  expect(testsOf({ file: 'test/peft/searches.long.test.ts', tests: 'NOAH' })).toHaveLength(1);
  expect(testsOf({ file: 'test/cli/programs.test.ts' })).toHaveLength(8);
  expect(testsOf({ file: 'test/peft/sideNetworks.test.ts', tests: 'vera' })).toEqual([]);
});

it('every page is up to date, with all parts in one order', () => {
  const parts = [
    'Equation',
    'When to use it',
    'What it takes and gives',
    'Count',
    'Merging',
    'What is reported',
    'What judges it',
    'Source',
  ];
  for (const p of programs) {
    const source = read(p.file);
    expect(headerOf(source).equation.length, `${p.file} opens without an indented equation`).toBeGreaterThan(0);
    expect(docstringOf(source, p.name), `${p.name} has no docstring`).not.toBeNull();
    const page = read(`docs/methods/${p.name}.md`);
    expect(page, `${p.name}: ${advice}`).toBe(programPage(p));
    expect(
      page.match(/^## .+(?=\n\n\S)/gm)?.map((l) => l.slice(3)),
      p.name,
    ).toEqual(parts);
    expect(page.length, p.name).toBeLessThan(65_536);
    for (const [, target] of page.split('## Source')[0]!.matchAll(/\]\(\.\.\/\.\.\/([^)]+)\)/g))
      expect(read(target!).length).toBeGreaterThan(0);
  }
});

it('every program has a row in the index and a name in the README’s table', () => {
  const list = read('docs/methods.md');
  expect(list, advice).toContain(programIndex().join('\n'));
  for (const p of programs) expect(list).toContain(`| [${p.name}](methods/${p.name}.md) | ${p.place} |`);
  const readme = read('README.md');
  expect(readme, advice).toBe(withTable(readme, methods));
  expect(readme).toContain(`| **programs** (${programs.length}) | \`${programs.map((p) => p.name).join('` `')}\` |`);
});

it('the table of trainings says why it has none of them', () => {
  const outcome = { settings: { steps: 1, seeds: 1, pretraining: 1, rates: [1] }, task: '', engine: '', minutes: 1, loraFlops: 1 };
  expect(trainedPage({ ...outcome, base: { scalars: 1, loss: 1 }, entries: [] })).toMatch(
    /\[programs\]\(methods\.md#programs\) have no rows: /,
  );
});

it('show prints the facts of each', () => {
  for (const p of programs) {
    const text = programDetails(p);
    for (const fact of [p.place, p.count, link(p.paper), p.file]) expect(text, p.name).toContain(fact);
    for (const { file } of programNotes[p.name]!.judges) expect(text, p.name).toContain(`npx vitest run ${file}`);
    expect(text).toContain(headerOf(read(p.file)).equation[0]);
  }
});

it('show knows programs by name; what is unknown is told the nearest of all; --train refuses them', async () => {
  const mera = programs.find((p) => p.name === 'mera')!;
  expect(await said(methodsCommand, ['show', 'mera'])).toEqual({ out: programDetails(mera), err: '' });
  await expect(said(methodsCommand, ['show', 'merra'])).rejects.toThrow(/no method merra\. Nearest: .*mera/);
  await expect(said(methodsCommand, ['--train', '--only', 'lora,mera'])).rejects.toThrow(/mera is a program/);
});
