// npm run methods: filters, records, one method in detail, the pages' text, and the pieces of the comparison table.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { methodsCommand } from '../../cli/commands/methods.ts';
import { composing } from '../../cli/methodComposes.ts';
import { equationsOf, placeOf } from '../../cli/methodDetails.ts';
import { index, ingredients, page } from '../../cli/methodDocs.ts';
import { notes, reported } from '../../cli/methodNotes.ts';
import { fits, keeps, type Row, referenceModel, rowOf, table } from '../../cli/methodRows.ts';
import { docstringOf, formulaOf, headerOf } from '../../cli/methodSource.ts';
import { formatTrained, type Outcome, pageName, readTrained, trainedFigure, trainedPage } from '../../cli/methodTrained.ts';
import { UsageError } from '../../cli/usage.ts';
import { rng } from '../../core/rng.ts';
import { methods } from '../../peft/all.ts';
import { programs } from '../../peft/lists/programs.ts';
import { said } from './tinypeft.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
/** As a child process, with its exit codes: commands.test.ts. */
const run = (...args: string[]): Promise<{ readonly out: string; readonly err: string }> => said(methodsCommand, args);
const refused = (...args: string[]) => expect(run(...args)).rejects;
const model = referenceModel();
const composes = composing();
const rows: Row[] = [];
for (const m of methods) rows.push(await rowOf(m, model, composes));
const listed = (name: string) => methods.find((m) => m.name === name)!;

describe('records', () => {
  it('are one per method, with exactly the fields that programs rely on', async () => {
    const { out } = await run('--json');
    const all = JSON.parse(out) as (Row & { readonly program?: string; readonly file?: string })[];
    const found = all.filter((r) => r.program === undefined);
    expect(found.map((r) => r.name)).toEqual(methods.map((m) => m.name));
    expect(new Set(all.map((r) => r.name)).size).toBe(all.length);
    expect(all.slice(found.length).map((r) => r.name)).toEqual(programs.map((p) => p.name));
    for (const p of programs)
      expect(readFileSync(new URL(p.file, `file://${root}`), 'utf8')).toMatch(
        new RegExp(`^export (async )?(function|const) ${p.name}\\b`, 'm'),
      );
    for (const r of found) {
      expect(Object.keys(r)).toEqual(['name', 'family', 'place', 'paper', 'count', 'mergeable', 'composable', 'startsAsBase']);
      expect(r.count.formula, `${r.name} states no count: write "Count: …." into its docstring, or into cli/notes/`).not.toBeNull();
      expect(r.count.trained, r.name).toBeGreaterThanOrEqual(r.name === 'arrow' ? 0 : 1); // it routes experts that are trained already
      expect(r.count.stored, r.name).not.toBeNull();
    }
  });
  it('say what a method can be put on top of', () => {
    const of = (name: string): string => rows.find((r) => r.name === name)!.composable;
    expect(['lora', 'ia3', 'houlsby', 'headOnly', 'longlora', 'mam'].map(of)).toEqual(Array(6).fill('any'));
    expect(['dora', 'boft', 'loraXs'].map(of)).toEqual(Array(3).fill('mergeable'));
    expect(['pissa', 'olora', 'corda', 'loraGa'].map(of)).toEqual(Array(4).fill('none'));
  });
  it('are a table no wider than 180 columns, with the formula of each count or its beginning', () => {
    const lines = table(rows)
      .split('\n')
      .slice(2, 2 + rows.length);
    for (const [k, r] of rows.entries()) {
      const cell = lines[k]!.split(/ {2,}/)[4]!;
      expect([...lines[k]!].length, r.name).toBeLessThanOrEqual(180);
      expect(lines[k]!.startsWith(r.name)).toBe(true);
      if (cell.endsWith('…')) expect(r.count.formula!.startsWith(cell.slice(0, -1)), r.name).toBe(true);
      else expect(cell, r.name).toBe(r.count.formula);
    }
  });
  it('filter by family, place, merging and size', async () => {
    const few = await run('--mergeable', '--max-params', '2,000', '--place', 'linear', '--json');
    const names = (JSON.parse(few.out) as Row[]).map((r) => r.name);
    expect(names).toEqual(rows.filter((r) => r.mergeable && r.count.trained! <= 2000 && r.place.includes('linear')).map((r) => r.name));
    expect(names).toContain('vera');
    expect(names).not.toContain('lora');
    expect(methods.filter(fits({ place: 'trunk', family: 'hybrid' })).map((m) => m.name)).toContain('mam');
    expect(rows.filter(keeps({})).length).toBe(rows.length);
  });
  it('are refused where the question is wrong', async () => {
    await refused('--max-params', 'few').toThrow(new UsageError('--max-params few: expected a whole number from 0'));
    await refused('--place', 'head').toThrow(/no place head; there are .*linear/);
    await refused('--steps', '3').toThrow('are for --train');
    await refused('--train', '--only', 'lora,dorra').toThrow(/no method dorra\. Nearest: dora/);
  });
});

describe('what a method’s file says', () => {
  const source = `// One: a thing.\n//   y = x\n//   z = y\n// Someone 2020, §1. Count: n².\nimport x;\n/**\n * Starts at 0. Count per site: r(a + b), and\n * one more. Then.\n */\nexport const one = 1;\n`;
  it('is its first line, its equations, the rest, the docstring and the count', () => {
    expect(headerOf(source)).toEqual({ says: 'One: a thing.', equation: ['y = x', 'z = y'], rest: 'Someone 2020, §1. Count: n².' });
    expect(docstringOf(source, 'one')).toBe('Starts at 0. Count per site: r(a + b), and one more. Then.');
    expect(docstringOf(source, 'two')).toBeNull();
    expect(formulaOf(source, 'one')).toBe('r(a + b), and one more (per site)');
    expect(formulaOf(source, 'two')).toBe('n²');
  });
  it('has an equation for every method: its own, or those of its parts', () => {
    for (const m of methods) {
      expect(headerOf(readFileSync(`${root}/${m.file}`, 'utf8')).says.length, m.file).toBeGreaterThan(10);
      expect(equationsOf(m).length, `${m.file} opens without an indented equation`).toBeGreaterThan(0);
    }
    expect(equationsOf(listed('mam'))).toEqual(expect.arrayContaining(['prefixTuning:', 'parallelAdapter:']) as string[]);
  });
  it('is joined by a note for every method and for nothing else, in which each result names where it was read', () => {
    expect(new Set(Object.keys(notes))).toEqual(new Set(methods.map((m) => m.name)));
    for (const { name } of methods) {
      expect(notes[name]!.use, `${name}: when to use it, in a sentence or more`).toMatch(/^\S.{20,}\.$/);
      const lines = reported(name);
      if (notes[name]!.reports === undefined) expect(lines, name).toEqual([expect.stringContaining('could be read')]);
      else for (const line of lines) expect(line, name).toMatch(/^\* .*\(.*(paper|repository|documentation|benchmark|abstract).*\)/);
      expect(lines.length, name).toBeGreaterThan(0);
    }
  });
});

describe('the sketch', () => {
  it('marks exactly the places a method attaches to', () => {
    const marked = placeOf(listed('lora'), model)
      .split('\n')
      .filter((l) => l.includes('◀ lora'))
      .map((l) => l.trim().split(/ +/)[0]);
    expect(marked).toEqual(['q', 'v']); // of each block: they are alike
    expect(placeOf(listed('lastLayers'), model)).toMatch(/block 0 [\s\S]*block 1 [\s\S]*◀ lastLayers/);
    expect(placeOf(listed('headOnly'), model)).toMatch(/head .*\n +weight .*◀ headOnly/);
  });
  it('finds a place for every method', () => {
    for (const m of methods) expect(placeOf(m, model), m.name).toContain('◀');
  });
});

describe('the pages', () => {
  const advice = 'run `npm run methods -- --docs` and commit docs/';
  it('are up to date, five of them by seed', async () => {
    const seed = Number(process.env.TINYPEFT_SEED ?? 1);
    const o = ingredients();
    const some = rng(seed).split('pages').permutation(methods.length).slice(0, 5);
    for (const k of some) {
      const m = methods[k]!;
      expect(readFileSync(`${root}/docs/methods/${pageName(m.name)}`, 'utf8'), `${m.name}, seed ${seed}: ${advice}`).toBe(await page(m, o));
    }
  });
  it('have every part, in one order', () => {
    const parts = ['Equation', 'When to use it', 'Where it sits', 'What it brings, and how that starts', 'Defaults', 'Count'];
    const trained = new Set(readTrained()?.entries.map((e) => e.name));
    for (const { name } of methods) {
      const here = trained.has(name) ? ['How it did here'] : [];
      const order = [...parts, 'Merging and composing', 'What is reported', ...here, 'Source'];
      const text = readFileSync(`${root}/docs/methods/${pageName(name)}`, 'utf8');
      const found = text.match(/^## .+(?=\n\n\S)/gm)?.map((l) => l.slice(3)); // each with something below it
      expect(found, `${name}: ${advice}`).toEqual(order);
      expect(text, name).toContain('![the graph at one place]');
    }
  });
  it('are listed in an index that is up to date', () => {
    expect(readFileSync(`${root}/docs/methods.md`, 'utf8'), advice).toBe(index(rows));
  });
});

describe('the comparison', () => {
  const entry = (name: string, trainable: number, losses: number[]) => ({
    ...{
      name,
      family: 'additive',
      place: ['linear'],
      mergeable: true,
      composable: 'any' as const,
      trainable,
      optimizer: 8 * trainable,
      saved: 1e6,
      flops: 3e6,
    },
    ...{ adjusted: name === 'b' ? 'half of it' : null, rate: 0.01, losses, seconds: 1, cpuSeconds: 1 },
  });
  const outcome: Outcome = {
    settings: { steps: 7, seeds: 3, pretraining: 1, rates: [0.1] },
    ...{ task: 'a task', engine: 'simd', minutes: 1.25, base: { scalars: 10_000, loss: 2 }, loraFlops: 2e6 },
    entries: [entry('a', 400, [1.5, 1.7, 1.6]), entry('b', 40, [1.2, 1.2, 1.5])],
  };
  it('has a table of the mean and deviation of the seeds, the lowest first', () => {
    expect(formatTrained(outcome)).toMatch(/^b .*0\.400 % .*1\.50 .*1\.300 ± 0\.173 .*\n^a .*4\.00 % .*1\.600 ± 0\.100 /m);
    expect(formatTrained(outcome)).toContain('b: half of it');
    expect(trainedPage(outcome)).toContain(
      '| [b](methods/b.md) | additive | linear | 40 | 0.400 % | 320 B | 1.00 MB | 1.50 | 0.01 | 1.300 ± 0.173 | yes | yes |',
    );
  });
  it('has a figure with every method by name', () => {
    const svg = trainedFigure(outcome);
    expect(svg).toMatch(/^<svg[\s\S]*<\/svg>\n$/);
    expect(svg).toContain('<title>a: 400, 1.600</title>');
    expect(svg).toContain('<title>b: 40, 1.300</title>');
  });
});
