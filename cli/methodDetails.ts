// One method for a terminal: equation, where it sits, defaults, counts, merging, file.
import { rng } from '../core/rng.ts';
import { decoder, llama } from '../nn/decoder.ts';
import { freeze } from '../nn/freeze.ts';
import type { Model } from '../nn/layer.ts';
import { methods } from '../peft/all.ts';
import type { Listed } from '../peft/listed.ts';
import type { Part } from '../peft/method.ts';
import { composing } from './methodComposes.ts';
import { number, type Row, rowOf, sourceOf } from './methodRows.ts';
import { sketch } from './methodSketch.ts';
import { docstringOf, headerOf } from './methodSource.ts';

/** Options as they would be written in a program; patterns and functions in their own notation. */
export function options(config: object): string {
  const value = (v: unknown): string => (v instanceof RegExp || typeof v === 'function' ? String(v) : JSON.stringify(v));
  return Object.entries(config)
    .map(([k, v]) => `${k}: ${value(v)}`)
    .join(', ');
}
/** Defaults by part; a composition has several. */
export const defaults = (parts: readonly Part[]): string[] =>
  parts.map((p) => `${parts.length > 1 ? `${p.method.name}: ` : ''}${options(p.config)}`);

export const link = (paper: string): string => paper.replace('arXiv:', 'https://arxiv.org/abs/');
/** The second line of every page. */
export const WRITTEN = '<!-- written by `npm run methods -- --docs`; not edited by hand -->';
export const STARTS = {
  bitwise: 'as the base, bit for bit',
  close: 'as the base, up to rounding',
  no: 'elsewhere than the base',
} as const;

export const COMPOSES = {
  any: 'on top of any method',
  mergeable: 'on top of methods that merge: it needs the weight that they make',
  none: 'others on top of it; it replaces the weight, so nothing may stand there before',
} as const;

/** The equations at the head of its file; for a composition whose file has none, those of its parts. */
export function equationsOf(m: Listed): readonly string[] {
  const own = headerOf(sourceOf(m)).equation;
  if (own.length > 0) return own;
  const parts = [...new Set(m.standard().parts.map((p) => p.method.name))];
  return parts.flatMap((name) => {
    const listed = methods.find((o) => o.name === name);
    return listed === undefined ? [] : [`${name}:`, ...headerOf(sourceOf(listed)).equation.map((l) => `  ${l}`)];
  });
}

/** Where it sits in the reference model, or where that has no such place (an untied head, say) in a LLaMA. */
export function placeOf(m: Listed, model: Model): string {
  const at = (other: Model): string | null => sketch(m.standard(), other);
  return (
    at(model) ??
    at(freeze(decoder(llama({ vocabulary: 8, width: 64, layers: 2, heads: 2, positions: 128 }), rng(0)))) ??
    'the defaults name places that neither GPT-2 nor LLaMA has'
  );
}

/** Text in lines of at most `width` characters. */
export function wrapped(text: string, width: number, indent: string): string {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last === undefined || last.length + word.length + 1 > width) lines.push(word);
    else lines[lines.length - 1] = `${last} ${word}`;
  }
  return lines.map((l) => `${indent}${l}`).join('\n');
}

export async function details(m: Listed, model: Model): Promise<string> {
  const [row, source]: [Row, string] = [await rowOf(m, model, composing()), sourceOf(m)];
  const { says, rest } = headerOf(source);
  const equation = equationsOf(m);
  const doc = docstringOf(source, m.name);
  const block = (lines: readonly string[]): string => lines.map((l) => `  ${l}`).join('\n');
  return [
    `${m.name}  (${m.family})`,
    wrapped(says, 110, ''),
    ...(equation.length === 0 ? [] : ['', block(equation)]),
    ...(rest === '' ? [] : ['', wrapped(rest, 110, '')]),
    '',
    'where it sits',
    block(placeOf(m, model).split('\n')),
    '',
    'defaults',
    block(defaults(m.standard().parts)),
    ...(doc === null ? [] : ['', wrapped(doc, 110, '')]),
    '',
    `count     ${row.count.formula ?? 'see the file'}; ${number(row.count.trained)} trained and ${number(row.count.stored)} stored on ${row.count.on}`,
    `merges    ${row.mergeable ? 'yes, into plain weights' : 'no, it stays attached'}`,
    `composes  ${COMPOSES[row.composable]}`,
    `starts    ${STARTS[row.startsAsBase]}`,
    `paper     ${link(m.paper)}`,
    `file      ${m.file}`,
    `laws      npm run laws -- ${m.name}`,
  ].join('\n');
}
