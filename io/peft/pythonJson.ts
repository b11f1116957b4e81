// JSON as Python's json module reads and writes it: whole and real numbers stay apart (8 and 8.0), keys sorted, indented by two.
import type { Json } from '../adapterJson.ts';

/** A text that is not what it should be: which file, at which character, and why. */
export class PythonJsonError extends Error {
  override readonly name = 'PythonJsonError';
  constructor(file: string, offset: number, reason: string) {
    super(`${file}, character ${offset}: ${reason}`);
  }
}
export interface Parsed {
  readonly value: Json;
  /** Each number as it was written, by the path of keys that leads to it. */
  readonly written: ReadonlyMap<string, string>;
}

const FORBIDDEN: ReadonlySet<string> = new Set(['__proto__', 'constructor', 'prototype']);
const DEEPEST = 32;
export const pathOf = (path: string, key: string | number): string => `${path}/${key}`;

/**
 * Reads JSON text. Refuses, with the place: anything that is not JSON, a key given twice, keys that would reach an object's prototype, and nesting
 * deeper than 32. NaN and Infinity, which Python writes, are refused too: no field of an adapter's configuration can mean them.
 */
export function parsePython(text: string, file: string): Parsed {
  let i = 0;
  const written = new Map<string, string>();
  const refuse = (reason: string, at = i): never => {
    throw new PythonJsonError(file, at, reason);
  };
  const blank = (): void => {
    while (text[i] === ' ' || text[i] === '\n' || text[i] === '\r' || text[i] === '\t') i++;
  };
  const take = (c: string): void => {
    blank();
    if (text[i] !== c) refuse(`expected ${c}, found ${text[i] === undefined ? 'the end of the file' : JSON.stringify(text[i])}`);
    i++;
  };
  const literal = (): string => {
    blank();
    const start = i;
    if (text[i] !== '"') refuse(`expected a text in double quotes, found ${JSON.stringify(text[i] ?? 'the end of the file')}`);
    for (i++; i < text.length && text[i] !== '"'; i++) if (text[i] === '\\') i++;
    i++;
    try {
      return JSON.parse(text.slice(start, i)) as string;
    } catch {
      return refuse('a text that is not closed, or has a character in it that JSON does not allow', start);
    }
  };
  /** Items between brackets; `one` reads one of them. */
  const items = (close: string, one: () => void): void => {
    i++;
    blank();
    if (text[i] === close) {
      i++;
      return;
    }
    for (;;) {
      one();
      blank();
      if (text[i] !== ',') break;
      i++;
    }
    take(close);
  };
  const value = (path: string, depth: number): Json => {
    if (depth > DEEPEST) return refuse(`nested more than ${DEEPEST} levels deep`);
    blank();
    const c = text[i];
    if (c === '"') return literal();
    if (c === '[') {
      const list: Json[] = [];
      items(']', () => list.push(value(pathOf(path, list.length), depth + 1)));
      return list;
    }
    if (c === '{') {
      const found = new Map<string, Json>();
      items('}', () => {
        blank();
        const start = i;
        const key = literal();
        if (FORBIDDEN.has(key)) refuse(`the key ${JSON.stringify(key)} is not allowed as a name`, start);
        if (found.has(key)) refuse(`the key ${JSON.stringify(key)} appears twice`, start);
        take(':');
        found.set(key, value(pathOf(path, key), depth + 1));
      });
      return Object.fromEntries(found);
    }
    const word = /^(true|false|null)\b/.exec(text.slice(i, i + 6))?.[0];
    if (word !== undefined) {
      i += word.length;
      return word === 'null' ? null : word === 'true';
    }
    const number = /-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?/y;
    number.lastIndex = i;
    const digits = number.exec(text)?.[0];
    if (digits === undefined) {
      if (/^(NaN|-?Infinity)/.test(text.slice(i, i + 9))) return refuse('NaN or Infinity, which no field here can mean');
      return refuse(c === undefined ? 'the file ends here' : `expected a value, found ${JSON.stringify(c)}`);
    }
    const v = Number(digits);
    if (!Number.isFinite(v)) return refuse(`the number ${digits.slice(0, 40)} is too large`);
    i += digits.length;
    written.set(path, digits);
    return v;
  };
  const whole = value('', 0);
  blank();
  if (i < text.length) refuse(`${JSON.stringify(text[i])} after the end of the JSON`);
  return { value: whole, written };
}

/** A real number as Python shows it: 8.0, 0.05, 1e-05, 1e+16. */
export function pythonFloat(v: number): string {
  const [digits = '', power] = v.toExponential().split('e');
  const exponent = Number(power);
  if (v !== 0 && (exponent < -4 || exponent >= 16)) {
    const sign = exponent < 0 ? '-' : '+';
    return `${digits}e${sign}${String(Math.abs(exponent)).padStart(2, '0')}`;
  }
  const plain = Object.is(v, -0) ? '-0' : v < 1e21 ? String(v) : digits;
  return plain.includes('.') ? plain : `${plain}.0`;
}

/** Characters outside ASCII are escaped, as Python does unless told not to. */
const quoted = (s: string): string =>
  JSON.stringify(s).replace(/[\u007f-\uffff]/g, (c) => (c === '\u007f' ? c : `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`));

/**
 * JSON text as `json.dumps(value, indent=2, sort_keys=True)` writes it. A number that was read from a file and is the same still is written as it
 * was (`written`); of others those whose key `real` names are written as Python's floats, the rest as whole numbers where they are whole.
 */
export function dumpsPython(value: Json, written: ReadonlyMap<string, string> = new Map(), real: ReadonlySet<string> = new Set()): string {
  const dump = (v: Json, path: string, key: string, indent: string): string => {
    if (v === null || typeof v === 'boolean') return String(v);
    if (typeof v === 'string') return quoted(v);
    if (typeof v === 'number') {
      const old = written.get(path);
      if (old !== undefined && Number(old) === v) return old;
      return real.has(key) || !Number.isInteger(v) ? pythonFloat(v) : BigInt(v).toString();
    }
    const inner = `${indent}  `;
    if (Array.isArray(v)) {
      const items = v as readonly Json[];
      return items.length === 0 ? '[]' : `[\n${items.map((x, k) => inner + dump(x, pathOf(path, k), key, inner)).join(',\n')}\n${indent}]`;
    }
    const entries = Object.entries(v).sort(([a], [b]) => (a < b ? -1 : 1));
    if (entries.length === 0) return '{}';
    return `{\n${entries.map(([k, x]) => `${inner}${quoted(k)}: ${dump(x, pathOf(path, k), k, inner)}`).join(',\n')}\n${indent}}`;
  };
  return dump(value, '', '', '');
}
