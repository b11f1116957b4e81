// npm run methods: what the library can attach, as a table, as JSON, or one method in detail.
import { parseArgs } from 'node:util';
import { columns } from '../core/columns.ts';
import { nearest } from '../core/nearest.ts';
import { rng } from '../core/rng.ts';
import { decoder, gpt2 } from '../nn/decoder.ts';
import { freeze } from '../nn/freeze.ts';
import type { Model } from '../nn/layer.ts';
import { type Listed, methods } from '../peft/all.ts';
import type { Part } from '../peft/method.ts';
import { pick } from '../peft/site.ts';

const help = `npm run methods -- [show NAME] [--family NAME] [--json]

  A table of all methods: name, family, place, paper, scalars trained, whether it merges into plain weights, and whether a
  fresh attachment computes the same as the base. Counts are for the defaults on the reference model below.

  show NAME       one method: paper, defaults, where it sits, its file
  --family NAME   additive, selective, reparameterized or hybrid
  --json          for programs
  --help          this text`;

/** What counts are quoted for. */
const REFERENCE = { vocabulary: 100, width: 128, layers: 2, heads: 4, positions: 128 };
const described = `GPT-2 with ${REFERENCE.layers} layers of width ${REFERENCE.width}`;

/** One line of the table. */
interface Row {
  readonly name: string;
  readonly family: string;
  readonly place: string;
  readonly paper: string;
  /** Scalars trained on the reference model with the defaults; null where the defaults do not fit it. */
  readonly trained: number | null;
  readonly stored: number | null;
  readonly mergeable: boolean;
  readonly startsAsBase: 'bitwise' | 'close' | 'no';
  readonly file: string;
}

function rowOf(m: Listed, model: Model): Row {
  const parts = m.standard().parts;
  const starts = parts.map((p) => p.method.startsAsBase(p.config));
  const counts = count(parts, model);
  return {
    name: m.name,
    family: m.family,
    place: m.at.join(', '),
    paper: m.paper,
    trained: counts?.train ?? null,
    stored: counts?.stored ?? null,
    mergeable: parts.every((p) => p.method.mergeable),
    startsAsBase: starts.includes('no') ? 'no' : starts.includes('close') ? 'close' : 'bitwise',
    file: m.file,
  };
}
function count(parts: readonly Part[], model: Model): { train: number; stored: number } | null {
  try {
    const all = parts.map((p) => p.method.count(pick(model, p.method.at, p.config.where, p.method.name), p.config));
    return { train: all.reduce((n, c) => n + c.train, 0), stored: all.reduce((n, c) => n + c.stored, 0) };
  } catch {
    return null; // the defaults name places this model does not have
  }
}

const number = (n: number | null): string => (n === null ? '—' : n.toLocaleString('en-US'));
const table = (rows: readonly Row[]): string =>
  `${columns(
    ['name', 'family', 'place', 'paper', 'trained', 'stored', 'merges', 'starts as base'],
    rows.map((r) => [r.name, r.family, r.place, r.paper, number(r.trained), number(r.stored), r.mergeable ? 'yes' : 'no', r.startsAsBase]),
  )}\n\n${rows.length} methods. Scalars trained and stored: defaults, on ${described}. Details: npm run methods -- show NAME`;

/** Options as they would be written in a program; patterns and functions in their own notation. */
const shown = (config: object): Record<string, unknown> =>
  Object.fromEntries(Object.entries(config).map(([k, v]) => [k, v instanceof RegExp || typeof v === 'function' ? String(v) : v]));

function details(m: Listed, row: Row): string {
  const parts = m.standard().parts;
  const of = (p: Part): string =>
    `  ${parts.length > 1 ? `${p.method.name}: ` : ''}${Object.entries(shown(p.config))
      .map(([k, v]) => `${k}: ${typeof v === 'string' && k === 'where' && v.includes('=>') ? v : JSON.stringify(v)}`)
      .join(', ')}`;
  return [
    `${m.name}  (${m.family})`,
    `paper     ${m.paper.replace('arXiv:', 'https://arxiv.org/abs/')}`,
    `file      ${m.file}`,
    `sits at   ${row.place}`,
    `defaults`,
    ...parts.map(of),
    `trains    ${number(row.trained)} scalars and stores ${number(row.stored)} on ${described}`,
    `merges    ${row.mergeable ? 'yes, into plain weights' : 'no, it stays attached'}`,
    `starts    ${{ bitwise: 'as the base, bit for bit', close: 'as the base, up to rounding', no: 'elsewhere than the base' }[row.startsAsBase]}`,
    `laws      npm run laws -- ${m.name}`,
  ].join('\n');
}

/** What to print, and whether it went well. */
function answer(): { text: string; code: number } {
  const wrong = (text: string): { text: string; code: number } => ({ text: `methods: ${text}`, code: 2 });
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        json: { type: 'boolean', default: false },
        family: { type: 'string' },
        help: { type: 'boolean', short: 'h', default: false },
      },
    });
    if (values.help) return { text: help, code: 0 };
    const [command, name] = positionals;
    const names = methods.map((m) => m.name);
    const families = [...new Set(methods.map((m) => m.family))];
    if (command !== undefined && command !== 'show') return wrong(`unknown command ${command}; there is: show NAME`);
    if (command === 'show' && name === undefined) return wrong('show needs the name of a method');
    if (name !== undefined && !names.includes(name))
      return wrong(`there is no method ${name}. Nearest: ${nearest(name, names).join(', ')}`);
    if (values.family !== undefined && !families.includes(values.family))
      return wrong(`there is no family ${values.family}; there are ${families.join(', ')}`);
    const model = freeze(decoder(gpt2(REFERENCE), rng(0)));
    const chosen = methods.filter((m) => (name === undefined || m.name === name) && (values.family ?? m.family) === m.family);
    const rows = chosen.map((m) => rowOf(m, model));
    if (values.json) {
      const all = rows.map((r, k) => ({
        ...r,
        defaults: chosen[k]!.standard().parts.map((p) => ({ method: p.method.name, ...shown(p.config) })),
      }));
      return { text: JSON.stringify(name === undefined ? all : all[0], null, 2), code: 0 };
    }
    return { text: name === undefined ? table(rows) : details(chosen[0]!, rows[0]!), code: 0 };
  } catch (e) {
    return wrong(e instanceof Error ? e.message : String(e));
  }
}

const { text, code } = answer();
(code === 0 ? console.log : console.error)(text);
process.exitCode = code;
