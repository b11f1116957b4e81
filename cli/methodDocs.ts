// npm run methods -- --docs: a page with a figure for every method, and an index, from declarations, file headers and measured facts.
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { show, size } from '../core/shape.ts';
import { paramOf, type Tensor } from '../core/tensor.ts';
import type { Field, Model } from '../nn/layer.ts';
import { layers, tensors } from '../nn/tree.ts';
import { methods } from '../peft/all.ts';
import type { Listed } from '../peft/listed.ts';
import { programs } from '../peft/lists/programs.ts';
import { meanAndDeviation } from './interval.ts';
import { COMPOSABLE, composing } from './methodComposes.ts';
import { COMPOSES, defaults, equationsOf, link, placeOf, WRITTEN } from './methodDetails.ts';
import { figure, small, smallAttached } from './methodFigure.ts';
import { notes, reported } from './methodNotes.ts';
import { number, REFERENCE_NAME, type Row, referenceModel, rowOf, sourceOf } from './methodRows.ts';
import { docstringOf, headerOf } from './methodSource.ts';
import { type Outcome, pageName, readTrained } from './methodTrained.ts';
import { programIndex, programPage } from './programDocs.ts';

const FOLDER = fileURLToPath(new URL('../docs/', import.meta.url));
const figureName = (name: string): string => pageName(name).replace('.md', '.svg');

const BEGINS = {
  bitwise: 'what the base computes, bit for bit',
  close: 'what the base computes, up to rounding',
  no: 'something else than the base',
} as const;

/** How a tensor starts, as far as its numbers show it. */
function startOf(t: Tensor): string {
  const data = t.source.kind === 'leaf' ? t.source.data : paramOf(t)?.value;
  if (data === undefined) return 'computed';
  const all = Array.from(data);
  if (all.every((v) => v === all[0])) return `all ${Object.is(all[0], -0) ? '−0' : all[0]!.toPrecision(3).replace(/\.?0+$/, '')}`;
  const { mean, deviation } = meanAndDeviation(all);
  return `${size(t.shape)} different numbers, mean ${mean.toPrecision(2)}, deviation ${deviation!.toPrecision(2)}`;
}

/** What each of the methods attached brings to its first place, in the small configuration of the figure. */
function brought(model: Model): string[] {
  const first = new Map<string, Field>();
  for (const { layer: l } of layers(model))
    if (l.attached !== null && !first.has(l.attached.method)) first.set(l.attached.method, l.fields[l.attached.field] ?? null);
  return [...first].flatMap(([method, own]) =>
    [...tensors(own)].map(({ path, tensor }) => {
      const p = paramOf(tensor);
      const kind = p === null ? 'fixed' : p.active ? 'trained' : 'kept, not trained';
      return `| \`${first.size > 1 ? `${method}.` : ''}${path}\` | ${show(tensor.shape)} | ${kind} | ${startOf(tensor)} |`;
    }),
  );
}

function here(name: string, o: Outcome | null): string[] {
  const e = o?.entries.find((x) => x.name === name);
  if (o == null || e === undefined) return [];
  const { mean, deviation } = meanAndDeviation(e.losses);
  const lora = o.entries.find((x) => x.name === 'lora');
  const other = lora === undefined || name === 'lora' ? '' : ` (LoRA ${meanAndDeviation(lora.losses).mean.toFixed(3)})`;
  return [
    '## How it did here',
    '',
    `Loss ${mean.toFixed(3)}${deviation === null ? '' : ` ± ${deviation.toFixed(3)}`}${other} after ${o.settings.steps} steps with ${e.trainable.toLocaleString('en-US')} scalars at learning rate ${e.rate}; the base has ${o.base.loss.toFixed(3)}. What was done, and how the others did: [every method on one task](../methods-trained.md).`,
    '',
  ];
}

/** A method's page. */
export async function page(m: Listed, o: ReturnType<typeof ingredients>): Promise<string> {
  const source = sourceOf(m);
  const { says, rest } = headerOf(source);
  const [row, doc, note] = [await rowOf(m, o.reference, o.composes), docstringOf(source, m.name), notes[m.name]];
  const equation = equationsOf(m);
  const tensorsHere = brought(await smallAttached(m, o.base));
  return [
    `# ${m.name}`,
    '',
    WRITTEN,
    '',
    says,
    '',
    `${m.family} · at ${m.at.join(', ')} · [${m.paper}](${link(m.paper)}) · [${m.file}](../../${m.file})`,
    '',
    ...(equation.length === 0 ? [] : ['## Equation', '', '```text', ...equation, '```', '']),
    ...(rest === '' ? [] : [rest, '']),
    ...(note === undefined ? [] : ['## When to use it', '', note.use, '']),
    '## Where it sits',
    '',
    '```text',
    ...placeOf(m, o.reference)
      .split('\n')
      .map((l) => l.trimEnd()),
    '```',
    '',
    `![the graph at one place](${figureName(m.name)})`,
    '',
    'Drawn from the graph of one place of a network of width 8. Ellipses are tensors: pink trained, grey frozen, white fed. Boxes are kernels, dashed ones several.',
    '',
    '## What it brings, and how that starts',
    '',
    ...(doc === null ? [] : [doc, '']),
    '| tensor | shape there | | at the start |',
    '| --- | --- | --- | --- |',
    ...tensorsHere,
    '',
    `Freshly attached, the network computes ${BEGINS[row.startsAsBase]}.`,
    '',
    '## Defaults',
    '',
    '```text',
    ...defaults(m.standard().parts),
    '```',
    '',
    '## Count',
    '',
    `${row.count.formula === null ? '' : `${row.count.formula}. `}On ${REFERENCE_NAME}: ${number(row.count.trained)} scalars trained, ${number(row.count.stored)} stored.`,
    '',
    '## Merging and composing',
    '',
    row.mergeable ? 'Folds into plain weights, and then costs nothing.' : 'Is no change of weights, and stays attached.',
    '',
    `Composes: ${COMPOSES[row.composable]}.`,
    '',
    '## What is reported',
    '',
    ...reported(m.name),
    '',
    ...here(m.name, o.trained),
    '## Source',
    '',
    '```ts',
    source.trimEnd(),
    '```',
    '',
  ].join('\n');
}

/** The list of all methods and programs. */
export function index(rows: readonly Row[]): string {
  const families = [...new Set(rows.map((r) => r.family))];
  const line = (r: Row): string =>
    `| [${r.name}](methods/${pageName(r.name)}) | ${r.place.join(', ')} | [${r.paper.replace('arXiv:', '').replace('https://', '')}](${link(r.paper)}) | ${r.count.formula ?? '—'} | ${number(r.count.trained)} | ${r.mergeable ? 'yes' : 'no'} | ${COMPOSABLE[r.composable]} | ${r.startsAsBase} |`;
  return [
    '# Methods',
    '',
    WRITTEN,
    '',
    `${rows.length} methods, and [${programs.length} programs](#programs) made of them. Scalars trained with the defaults on ${REFERENCE_NAME}. All of them trained side by side: [every method on one task](methods-trained.md).`,
    '',
    ...families.flatMap((f) => [
      `## ${f[0]!.toUpperCase()}${f.slice(1)}`,
      '',
      '| method | place | paper | count | trained | merges | composable | starts as base |',
      '| --- | --- | --- | --- | --: | --- | --- | --- |',
      ...rows.filter((r) => r.family === f).map(line),
      '',
    ]),
    ...programIndex(),
  ].join('\n');
}

/** The README with its table of names between the marks made anew. */
export function withTable(readme: string, rows: readonly Pick<Row, 'name' | 'family'>[]): string {
  const families = [...new Set(rows.map((r) => r.family))];
  const table = [
    `${rows.length} methods, one page each; [\`docs/methods.md\`](docs/methods.md) has them all with equation, figure, start, count, merge and source. Programs are recipes of several stages and functions of trained models.`,
    '',
    '| family | methods |',
    '|---|---|',
    ...families.map((f) => {
      const names = rows.filter((r) => r.family === f).map((r) => `\`${r.name}\``);
      return `| **${f}** (${names.length}) | ${names.join(' ')} |`;
    }),
    `| **programs** (${programs.length}) | ${programs.map((p) => `\`${p.name}\``).join(' ')} |`,
  ].join('\n');
  return readme.replace(/(<!-- methods -->\n)[\s\S]*?(\n<!-- \/methods -->)/, (_, from: string, to: string) => `${from}${table}${to}`);
}

/** What the pages are made from, built once. */
export const ingredients = () => ({ reference: referenceModel(), base: small(), trained: readTrained(), composes: composing() });

/** Writes index, pages and figures, and removes pages of what is gone. */
export async function writeDocs(): Promise<void> {
  const o = ingredients();
  const folder = join(FOLDER, 'methods');
  await mkdir(folder, { recursive: true });
  const wanted = new Set([...methods.flatMap((m) => [pageName(m.name), figureName(m.name)]), ...programs.map((p) => pageName(p.name))]);
  for (const file of await readdir(folder)) if (!wanted.has(file)) await rm(join(folder, file));
  for (const m of methods) {
    await writeFile(join(folder, pageName(m.name)), await page(m, o));
    await writeFile(join(folder, figureName(m.name)), await figure(m, o.base));
  }
  for (const p of programs) await writeFile(join(folder, pageName(p.name)), programPage(p));
  const rows: Row[] = [];
  for (const m of methods) rows.push(await rowOf(m, o.reference, o.composes));
  await writeFile(join(FOLDER, 'methods.md'), index(rows));
  const readme = fileURLToPath(new URL('../README.md', import.meta.url));
  await writeFile(readme, withTable(await readFile(readme, 'utf8'), rows));
  console.log(
    `wrote docs/methods.md, the README's table, ${methods.length} pages with figures and ${programs.length} of programs in docs/methods/`,
  );
}
