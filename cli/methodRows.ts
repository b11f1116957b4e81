// One record per method for tables and JSON: family, place, counts on a small reference model, merging, how it starts.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { columns } from '../core/columns.ts';
import { rng } from '../core/rng.ts';
import { decoder, gpt2 } from '../nn/decoder.ts';
import { freeze } from '../nn/freeze.ts';
import type { Model } from '../nn/layer.ts';
import type { Listed } from '../peft/listed.ts';
import type { Program } from '../peft/lists/programs.ts';
import type { Part, Start } from '../peft/method.ts';
import { pick } from '../peft/site.ts';
import { COMPOSABLE, type Composable } from './methodComposes.ts';
import { notes } from './methodNotes.ts';
import { formulaOf } from './methodSource.ts';

/** What counts are quoted for. */
const REFERENCE = { vocabulary: 100, width: 128, layers: 2, heads: 4, positions: 128 };
export const REFERENCE_NAME = `GPT-2 with ${REFERENCE.layers} layers of width ${REFERENCE.width} and a vocabulary of ${REFERENCE.vocabulary}`;
export const referenceModel = (): Model => freeze(decoder(gpt2(REFERENCE), rng(0)));

export interface Row {
  readonly name: string;
  readonly family: string;
  /** The kinds of layer it attaches to. */
  readonly place: readonly string[];
  readonly paper: string;
  readonly count: {
    /** As the method's file states it; null where it states none. */
    readonly formula: string | null;
    readonly on: string;
    /** Scalars trained and stored with the defaults; null where the defaults do not fit the reference model. */
    readonly trained: number | null;
    readonly stored: number | null;
  };
  readonly mergeable: boolean;
  /** What it can be put on top of, tried out. */
  readonly composable: Composable;
  readonly startsAsBase: Start;
}

export const sourceOf = (m: Pick<Listed, 'file'>): string => readFileSync(fileURLToPath(new URL(`../${m.file}`, import.meta.url)), 'utf8');

/** `composes` comes from `composing()`: making it is the larger part of the work. */
export async function rowOf(m: Listed, model: Model, composes: (m: Listed) => Promise<Composable>): Promise<Row> {
  const parts = m.standard().parts;
  const starts = parts.map((p) => p.method.startsAsBase(p.config));
  return {
    name: m.name,
    family: m.family,
    place: m.at,
    paper: m.paper,
    count: { formula: formulaOf(sourceOf(m), m.name) ?? notes[m.name]?.count ?? null, on: REFERENCE_NAME, ...counted(parts, model) },
    mergeable: parts.every((p) => p.method.mergeable),
    composable: await composes(m),
    startsAsBase: starts.includes('no') ? 'no' : starts.includes('close') ? 'close' : 'bitwise',
  };
}
function counted(parts: readonly Part[], model: Model): { trained: number | null; stored: number | null } {
  try {
    const all = parts.map((p) => p.method.count(pick(model, p.method.at, p.config.where, p.method.name), p.config));
    return { trained: all.reduce((n, c) => n + c.train, 0), stored: all.reduce((n, c) => n + c.stored, 0) };
  } catch {
    return { trained: null, stored: null }; // the defaults name places this model does not have
  }
}

export interface Filter {
  readonly family?: string | undefined;
  readonly place?: string | undefined;
  readonly mergeable?: boolean | undefined;
  readonly maxParams?: number | undefined;
}
/** What can be told before a row is made, for which the method is attached to small networks. */
export const fits =
  (f: Filter) =>
  ({ family, at }: Pick<Listed, 'family' | 'at'>): boolean =>
    (f.family === undefined || family === f.family) && (f.place === undefined || at.some((kind) => kind === f.place));
export const keeps =
  (f: Filter) =>
  (r: Row): boolean =>
    (f.mergeable !== true || r.mergeable) && (f.maxParams === undefined || (r.count.trained !== null && r.count.trained <= f.maxParams));

export const number = (n: number | null): string => (n === null ? '—' : n.toLocaleString('en-US'));
/** Text of at most `width` characters; what is longer ends in an ellipsis. */
const clipped = (text: string, width: number): string => (text.length > width ? `${text.slice(0, width - 1).trimEnd()}…` : text);
export const table = (rows: readonly Row[]): string =>
  `${columns(
    ['name', 'family', 'place', 'paper', 'count', 'trained', 'stored', 'merges', 'composable', 'starts as base'],
    rows.map((r) => [
      r.name,
      r.family,
      clipped(r.place.join(', '), 20),
      clipped(r.paper.replace('https://', ''), 20),
      clipped(r.count.formula ?? '—', 36),
      number(r.count.trained),
      number(r.count.stored),
      r.mergeable ? 'yes' : 'no',
      COMPOSABLE[r.composable],
      r.startsAsBase,
    ]),
  )}\n\n${rows.length} methods. Scalars trained and stored: defaults, on ${REFERENCE_NAME}. Composable: whether it can be put on top of another method. Whole formulas and papers, and the rest: npm run methods -- show NAME, or --json`;

/** A program's record: it attaches nowhere by itself, so that it has no numbers on the reference model. */
export const programRow = ({ name, family, place, paper, count, mergeable, startsAsBase, file, says }: Program): object => ({
  name,
  family,
  place: [place],
  paper,
  count: { formula: count, on: null, trained: null, stored: null },
  mergeable,
  startsAsBase,
  file,
  program: says,
});
export const programTable = (programs: readonly Program[]): string =>
  programs.length === 0
    ? ''
    : `\n\n${columns(
        ['program', 'family', 'paper', 'what it does'],
        programs.map((p) => [p.name, p.family, p.paper, p.says]),
      )}`;
