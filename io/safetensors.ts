// The safetensors format: a JSON header that places named tables in one block of bytes. Nothing here touches a disk.
import type { Data } from '../core/tensor.ts';
import { DTYPES, type Dtype, dtypeOf, encodeNumbers, isDtype, WIDTH } from './numbers.ts';
import { OffsetError } from './offsetError.ts';

/** The reference implementation's own limit on the header. */
export const MAX_HEADER = 100_000_000;
/** Names that would reach an object's prototype if anybody used them as keys. */
const FORBIDDEN: ReadonlySet<string> = new Set(['__proto__', 'constructor', 'prototype']);

export class SafetensorsError extends OffsetError {
  override readonly name = 'SafetensorsError';
}

/** Where one tensor lies; `start` and `end` count from the beginning of the file. */
export interface Entry {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly start: number;
  readonly end: number;
}
export interface Header {
  readonly metadata: ReadonlyMap<string, string>;
  readonly entries: ReadonlyMap<string, Entry>;
}

/** Length of the header in bytes, from the first eight bytes of a file of `size` bytes. */
export function headerLength(first: Uint8Array, size: number, file: string): number {
  if (size < 8 || first.length < 8) throw new SafetensorsError(file, size, `the file has ${size} bytes; a safetensors file starts with 8`);
  const view = new DataView(first.buffer, first.byteOffset, 8);
  const n = view.getUint32(4, true) * 2 ** 32 + view.getUint32(0, true);
  if (n > MAX_HEADER)
    throw new SafetensorsError(file, 0, `claims a header of ${n} bytes; the most allowed is ${MAX_HEADER}. Is this a safetensors file?`);
  if (n > size - 8)
    throw new SafetensorsError(
      file,
      0,
      `claims a header of ${n} bytes, but only ${size - 8} follow: the file is truncated, or no safetensors file`,
    );
  if (n < 2) throw new SafetensorsError(file, 0, `claims a header of ${n} bytes; the smallest one, {}, has 2`);
  return n;
}

/** The header of a file of `size` bytes, every claim in it checked. `bytes` is the JSON after the first eight bytes. */
export function parseHeader(bytes: Uint8Array, size: number, file: string): Header {
  const text = decode(bytes, file);
  const keys = scan(text, file);
  const at = (name: string): number => 8 + utf8Length(text.slice(0, keys.get(name) ?? 0));
  const json = parse(text, file);
  const data = 8 + bytes.length;
  let metadata: ReadonlyMap<string, string> = new Map();
  const entries = new Map<string, Entry>();
  for (const [name, value] of Object.entries(json)) {
    const refuse = (reason: string): never => {
      throw new SafetensorsError(file, at(name), `${JSON.stringify(name)} ${reason}`);
    };
    if (name === '__metadata__') metadata = metadataOf(value, refuse);
    else entries.set(name, entryOf(name, value, data, size, refuse));
  }
  checkCover([...entries.values()], data, size, file, at);
  return { metadata, entries };
}

function decode(bytes: Uint8Array, file: string): string {
  if (bytes[0] !== 0x7b) throw new SafetensorsError(file, 8, 'the header must start with { (it is a JSON object)');
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new SafetensorsError(file, 8, 'the header is not UTF-8');
  }
}

/** Where the top-level keys stand. Refuses what JSON.parse would hide: a key given twice, prototype keys, deep nesting. */
function scan(text: string, file: string): Map<string, number> {
  const top = new Map<string, number>();
  const open: Set<string>[] = [];
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === '{' || c === '[') {
      open.push(new Set());
      if (open.length > 3)
        throw new SafetensorsError(file, 8 + utf8Length(text.slice(0, i)), 'the header is nested more than three levels deep');
    } else if (c === '}' || c === ']') open.pop();
    else if (c === '"') {
      const start = i;
      for (i++; i < text.length && text[i] !== '"'; i++) if (text[i] === '\\') i++;
      if (!colonFollows(text, i + 1)) continue;
      const key = literal(text.slice(start, i + 1));
      const keys = open.at(-1);
      if (key === null || keys === undefined) continue; // not JSON: JSON.parse says so
      const bad = FORBIDDEN.has(key) ? 'is not allowed as a name' : keys.has(key) ? 'appears twice' : null;
      if (bad !== null) throw new SafetensorsError(file, 8 + utf8Length(text.slice(0, start)), `the key ${JSON.stringify(key)} ${bad}`);
      keys.add(key);
      if (open.length === 1) top.set(key, start);
    }
  }
  return top;
}
function colonFollows(text: string, from: number): boolean {
  let i = from;
  while (text[i] === ' ' || text[i] === '\n' || text[i] === '\t' || text[i] === '\r') i++;
  return text[i] === ':';
}
function literal(s: string): string | null {
  try {
    return JSON.parse(s) as string;
  } catch {
    return null;
  }
}
const utf8 = (s: string): Uint8Array => new TextEncoder().encode(s);
const utf8Length = (s: string): number => utf8(s).length;

function parse(text: string, file: string): object {
  try {
    const json: unknown = JSON.parse(text);
    if (isObject(json)) return json;
  } catch (e) {
    throw new SafetensorsError(file, 8, `the header is not JSON: ${(e as Error).message.slice(0, 200)}`);
  }
  throw new SafetensorsError(file, 8, 'the header is not a JSON object');
}
const isObject = (v: unknown): v is Readonly<Record<string, unknown>> => typeof v === 'object' && v !== null && !Array.isArray(v);

function metadataOf(value: unknown, refuse: (reason: string) => never): Map<string, string> {
  if (!isObject(value)) return refuse('must be an object of texts');
  return new Map(Object.entries(value).map(([k, v]) => [k, typeof v === 'string' ? v : refuse(`holds ${k}, which is not a text`)]));
}

const isCount = (n: unknown): n is number => typeof n === 'number' && Number.isSafeInteger(n) && n >= 0;

function entryOf(name: string, value: unknown, data: number, size: number, refuse: (reason: string) => never): Entry {
  if (!isObject(value)) return refuse('must be an object with dtype, shape and data_offsets');
  const { dtype, shape, data_offsets: offsets, ...rest } = value;
  const extra = Object.keys(rest);
  if (extra.length > 0) return refuse(`has the unknown key ${JSON.stringify(extra[0])}`);
  if (!isDtype(dtype)) return refuse(`has dtype ${JSON.stringify(dtype) ?? 'missing'}; known are ${DTYPES.join(', ')}`);
  if (!Array.isArray(shape) || !shape.every(isCount)) return refuse(`has shape ${short(shape)}; it must be a list of whole numbers from 0`);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount))
    return refuse(`has data_offsets ${short(offsets)}; they must be two whole numbers from 0`);
  const [from, to] = offsets as [number, number];
  if (from > to || data + to > size) return refuse(`lies at ${from}…${to}, outside the ${size - data} bytes of data in this file`);
  const bytes = shape.reduce((n, d) => n * d, WIDTH[dtype]);
  if (bytes !== to - from) return refuse(`has ${to - from} bytes, but ${dtype} ${short(shape)} needs ${bytes}`);
  return { name, dtype, shape, start: data + from, end: data + to };
}
const short = (v: unknown): string => {
  const s = JSON.stringify(v) ?? 'missing';
  return s.length > 80 ? `${s.slice(0, 80)}…` : s;
};

/** Tensors must lie end to end: a gap could hide anything, an overlap would be two names for one number. */
function checkCover(entries: readonly Entry[], data: number, size: number, file: string, at: (name: string) => number): void {
  let end = data;
  for (const e of entries.toSorted((a, b) => a.start - b.start || a.end - b.end)) {
    if (e.start !== end)
      throw new SafetensorsError(
        file,
        at(e.name),
        `${JSON.stringify(e.name)} starts at data byte ${e.start - data}, but the tensor before it ends at ${end - data}: ${e.start < end ? 'they overlap' : 'a gap'}`,
      );
    end = e.end;
  }
  if (end !== size) throw new SafetensorsError(file, end, `${size - end} bytes after the last tensor belong to none`);
}

/** One tensor to write; without `dtype`, the type its array has. */
export interface Writable {
  readonly data: Data;
  readonly shape: readonly number[];
  readonly dtype?: Dtype;
}

/**
 * A file's bytes, piece by piece: header first, then each tensor. Tensors are ordered as the reference writer orders
 * them (widest type first, then by name), and data starts at a multiple of 8, so equal content is equal bytes.
 */
export function* encode(tensors: ReadonlyMap<string, Writable>, metadata: ReadonlyMap<string, string> = new Map()): Generator<Uint8Array> {
  const items = [...tensors].map(([name, t]) => ({ name, ...t, dtype: t.dtype ?? dtypeOf(t.data) }));
  items.sort((a, b) => DTYPES.indexOf(b.dtype) - DTYPES.indexOf(a.dtype) || (a.name < b.name ? -1 : 1));
  const header: [string, unknown][] = metadata.size === 0 ? [] : [['__metadata__', Object.fromEntries([...metadata].sort())]];
  for (const k of metadata.keys()) if (FORBIDDEN.has(k)) throw new RangeError(`safetensors: a metadata key cannot be called ${k}`);
  let end = 0;
  for (const { name, data, shape, dtype } of items) {
    if (name === '__metadata__' || FORBIDDEN.has(name)) throw new RangeError(`safetensors: a tensor cannot be called ${name}`);
    const count = shape.reduce((n, d) => n * d, 1);
    if (data.length !== count)
      throw new RangeError(`safetensors: ${name} has ${data.length} numbers, but [${shape.join(', ')}] needs ${count}`);
    const start = end;
    end += count * WIDTH[dtype];
    header.push([name, { dtype, shape, data_offsets: [start, end] }]);
  }
  const json = utf8(`{${header.map(([k, v]) => `${JSON.stringify(k)}:${JSON.stringify(v)}`).join(',')}}`); // an object would move keys such as "0"
  const padded = Math.ceil(json.length / 8) * 8;
  if (padded > MAX_HEADER) throw new RangeError(`safetensors: a header of ${padded} bytes, above the format's limit of ${MAX_HEADER}`);
  const first = new Uint8Array(8 + padded).fill(0x20, 8 + json.length);
  first.set(json, 8);
  new DataView(first.buffer).setUint32(0, padded, true); // MAX_HEADER < 2³²: the upper four bytes are 0
  yield first;
  for (const { name, data, dtype } of items) yield encodeNumbers(data, dtype, name);
}
