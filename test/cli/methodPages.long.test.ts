// Every committed page of docs/methods and its figure against what would be written now: text letter by letter, figures by what they draw.
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { ingredients, page } from '../../cli/methodDocs.ts';
import { figure } from '../../cli/methodFigure.ts';
import { pageName } from '../../cli/methodTrained.ts';
import { methods } from '../../peft/all.ts';
import { programs } from '../../peft/lists/programs.ts';

const folder = fileURLToPath(new URL('../../docs/methods/', import.meta.url));
const advice = 'run `npm run methods -- --docs` and commit docs/';
const o = ingredients();
/** What an SVG says, without where: layout may change with Graphviz. */
const texts = (svg: string): string[] => [...svg.matchAll(/<text[^>]*>([^<]*)<\/text>/g)].map((m) => m[1]!).sort();

describe('docs/methods', () => {
  it('has a page and a figure for every method, a page for every program, and no others', () => {
    const figures = methods.map((m) => pageName(m.name).replace('.md', '.svg'));
    const wanted = [...figures, ...[...methods, ...programs].map((m) => pageName(m.name))];
    expect(readdirSync(folder).sort(), advice).toEqual(wanted.sort());
  });
  for (const m of methods)
    it(m.name, async () => {
      const text = readFileSync(`${folder}${pageName(m.name)}`, 'utf8');
      expect(text, advice).toBe(await page(m, o));
      const svg = readFileSync(`${folder}${pageName(m.name).replace('.md', '.svg')}`, 'utf8');
      expect(texts(svg), advice).toEqual(texts(await figure(m, o.base)));
      expect(text.length + svg.length, `${m.name}: page and figure are to stay under 64 kB`).toBeLessThan(65_536);
      expect(svg.length, `${m.name}: the figure is to stay under 40 kB`).toBeLessThan(40_000);
    });
});
