// The header of a GGUF file: walked first, every count and length in it checked against the file's size; then parsed by the library
// @huggingface/gguf. Nothing here touches a disk.
import { gguf, type MetadataValue } from '@huggingface/gguf';
import { show } from '../core/shape.ts';
import { BLOCK_FORMATS, type BlockFormat } from './ggufBlocks.ts';
import { OffsetError } from './offsetError.ts';

/** Limits of the parser; files of the largest models stay far below. */
const MOST = { header: 45_000_000, text: 10_000_000, items: 1_000_000, keys: 100_000, depth: 4, dimensions: 4 } as const;
/** Keys that would reach an object's prototype, or that the parser uses for counts. */
const FORBIDDEN: ReadonlySet<string> = new Set(['__proto__', 'constructor', 'prototype', 'version', 'tensor_count', 'kv_count']);
/** Bytes of a metadata value by its type; 0 where its length is in the file. */
const WIDTHS = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];
const [TEXT, LIST] = [8, 9];

export class GgufError extends OffsetError {
  override readonly name = 'GgufError';
}

/** Where one tensor lies, from the file's beginning, and in what blocks. The shape is row-major: rows first, as everywhere here. */
export interface GgufEntry {
  readonly name: string;
  readonly format: BlockFormat;
  readonly shape: readonly number[];
  readonly start: number;
  readonly end: number;
}
export interface GgufHeader {
  readonly metadata: ReadonlyMap<string, MetadataValue>;
  readonly entries: ReadonlyMap<string, GgufEntry>;
}

/** What the walk found: where things stand. */
interface Walked {
  readonly end: number; // of the header, padding not counted
  readonly keys: ReadonlyMap<string, number>;
  readonly tensors: readonly number[];
}

/** Walks a header without making any of its values. Answers null where `bytes`, the first of a file of `size`, do not reach its end. */
export function walkHeader(bytes: Uint8Array, size: number, file: string): Walked | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const refuse = (at: number, reason: string): never => {
    throw new GgufError(file, at, reason);
  };
  let at = 0;
  let short = false; // the rest of the header is not in `bytes`
  const has = (n: number, what: string): boolean => {
    if (at + n > size) refuse(at, `${what} needs ${n} bytes, but the file ends after ${size - at}: it is truncated, or no GGUF file`);
    if (at + n > MOST.header) refuse(at, `${what} reaches beyond ${MOST.header} bytes, the longest header that can be read`);
    short ||= at + n > bytes.length;
    return !short;
  };
  const uint = (what: string): number => {
    if (!has(4, what)) return 0;
    at += 4;
    return view.getUint32(at - 4, true);
  };
  const count = (what: string, most: number): number => {
    if (!has(8, what)) return 0;
    const n = view.getBigUint64(at, true);
    if (n > BigInt(most)) refuse(at, `${what} is ${n}; at most ${most} can be here`);
    at += 8;
    return Number(n);
  };
  /** How many things of at least `least` bytes each may follow. */
  const room = (least: number): number => Math.floor(Math.max(0, size - at - 8) / least);
  const skip = (n: number, what: string): boolean => {
    const there = has(n, what);
    at += n;
    return there;
  };
  const text = (what: string): string => {
    const n = count(`the length of ${what}`, Math.min(MOST.text, room(1)));
    return skip(n, what) ? new TextDecoder().decode(bytes.subarray(at - n, at)) : '';
  };
  const value = (type: number, key: string, depth: number): void => {
    const width = WIDTHS[type] ?? refuse(at - 4, `the value of ${key} has type ${type}; known are 0 … ${WIDTHS.length - 1}`);
    if (width > 0) skip(width, `the value of ${key}`);
    else if (type === TEXT) {
      const n = count(`the length of ${key}`, Math.min(MOST.text, room(1)));
      skip(n, `the text of ${key}`);
    } else {
      if (depth >= MOST.depth) refuse(at, `${key} is a list more than ${MOST.depth} levels deep`);
      const inner = uint(`the list ${key}`);
      if (short) return;
      const each = WIDTHS[inner] ?? refuse(at - 4, `${key} is a list of type ${inner}; known are 0 … ${WIDTHS.length - 1}`);
      const n = count(`the number of items of ${key}`, Math.min(MOST.items, room(each > 0 ? each : inner === LIST ? 12 : 8)));
      if (each > 0) skip(n * each, `the list ${key}`);
      else for (let k = 0; k < n && !short; k++) value(inner, key, depth + 1);
    }
  };

  if (has(4, 'the mark GGUF') && (view.getUint32(0) !== 0x47475546 || size < 24))
    refuse(0, 'does not start with GGUF and two counts: this is no GGUF file');
  at = 4;
  const version = uint('the version');
  if (!short && version !== 2 && version !== 3)
    refuse(
      4,
      `has version ${version}${version > 65535 ? ' (a big-endian file?)' : ''}; versions 2 and 3 can be read, so convert the model again`,
    );
  const tensorCount = count('the number of tensors', room(24));
  const keyCount = count('the number of metadata keys', Math.min(MOST.keys, room(13)));
  const keys = new Map<string, number>();
  for (let k = 0; k < keyCount && !short; k++) {
    const start = at;
    const key = text(`metadata key ${k}`);
    const type = uint(`the type of ${key}`);
    if (short) break;
    const bad = FORBIDDEN.has(key) ? 'is not allowed as a key' : keys.has(key) ? 'appears twice' : null;
    if (bad !== null) refuse(start, `${JSON.stringify(key)} ${bad}`);
    keys.set(key, start);
    value(type, key, 0);
  }
  const tensors: number[] = [];
  for (let k = 0; k < tensorCount && !short; k++) {
    tensors.push(at);
    text(`the name of tensor ${k}`);
    const dimensions = uint(`the dimensions of tensor ${k}`);
    if (!short && dimensions > MOST.dimensions)
      refuse(at - 4, `tensor ${k} has ${dimensions} dimensions; GGUF has at most ${MOST.dimensions}`);
    skip(8 * dimensions + 12, `the description of tensor ${k}`);
  }
  return short ? null : { end: at, keys, tensors };
}

/**
 * The header of a file of `size` bytes; `read` answers bytes of it. Holds at most 24 times the header's bytes and 50 MB at a time (a list
 * of flags is 8 bytes each in memory), whatever the file claims. Throws a GgufError where the file is not what it should be.
 */
export async function readGgufHeader(
  read: (from: number, length: number) => Promise<Uint8Array>,
  size: number,
  file: string,
): Promise<GgufHeader> {
  let bytes: Uint8Array = new Uint8Array(0);
  let walked: Walked | null = null;
  for (let n = Math.min(size, 1 << 20); walked === null; n = Math.min(size, 2 * n)) {
    bytes = await read(0, n);
    walked = walkHeader(bytes, size, file);
  }
  const header = bytes.subarray(0, walked.end);
  const fetch = async (_: unknown, init?: RequestInit): Promise<Response> => {
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(new Headers(init?.headers).get('range') ?? '') ?? [];
    return new Response(header.slice(Number(from), Number(to) + 1));
  };
  const parsed = await gguf('https://localhost/', { fetch }).catch((e: unknown) => {
    throw new GgufError(file, 0, `cannot be parsed: ${e instanceof Error ? e.message : String(e)}`);
  });
  const values = parsed.metadata as unknown as Readonly<Record<string, MetadataValue>>; // a seam: the parser's type names some keys only
  const metadata = new Map(Object.entries(values).filter(([k]) => walked.keys.has(k)));
  const alignment = metadata.get('general.alignment') ?? 32;
  if (typeof alignment !== 'number' || !Number.isInteger(alignment) || alignment < 8 || alignment % 8 !== 0)
    throw new GgufError(file, walked.keys.get('general.alignment') ?? 0, `general.alignment is ${alignment}; it must be a multiple of 8`);
  const data = Math.ceil(walked.end / alignment) * alignment;
  const entries = new Map<string, GgufEntry>();
  for (const [k, info] of parsed.tensorInfos.entries()) {
    const at = walked.tensors[k]!;
    const refuse = (reason: string): never => {
      throw new GgufError(file, at, `${JSON.stringify(info.name)} ${reason}`);
    };
    if (entries.has(info.name)) refuse('appears twice');
    const format =
      BLOCK_FORMATS.find((f) => f.id === Number(info.dtype)) ??
      refuse(`is stored in format ${info.dtype}; known are ${BLOCK_FORMATS.map((f) => `${f.id} (${f.name})`).join(', ')}`);
    const shape = info.shape.map(Number).reverse();
    const n = shape.reduce((a, b) => a * b, 1);
    if (shape.length === 0 || shape.some((d) => d < 1) || !Number.isSafeInteger(n)) refuse(`has shape ${show(shape)}`);
    if (shape.at(-1)! % format.numbers !== 0)
      refuse(`has rows of ${shape.at(-1)} numbers, which are no whole blocks of ${format.numbers} (${format.name})`);
    const length = (n / format.numbers) * format.bytes;
    const start = data + Number(info.offset);
    if (info.offset % BigInt(alignment) !== 0n) refuse(`starts at data byte ${info.offset}, no multiple of the alignment ${alignment}`);
    if (!(start + length <= size))
      refuse(`lies at ${start} … ${start + length} (${format.name} ${show(shape)}), beyond the file's ${size} bytes: it is truncated`);
    entries.set(info.name, { name: info.name, format, shape, start, end: start + length });
  }
  checkApart([...entries.values()], file);
  return { metadata, entries };
}

/** Two names for one place would let a small file ask for any amount of memory. */
function checkApart(entries: readonly GgufEntry[], file: string): void {
  let before: GgufEntry | null = null;
  for (const e of entries.toSorted((a, b) => a.start - b.start)) {
    if (before !== null && e.start < before.end)
      throw new GgufError(file, e.start, `${JSON.stringify(e.name)} overlaps ${JSON.stringify(before.name)}, which ends at ${before.end}`);
    before = e;
  }
}
