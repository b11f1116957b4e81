// Packed matrices: numbers kept as codes of a few bits, and the one op that turns codes into numbers where they are used. A product or
// a lookup reads its packed operand code by code (core/fuse.ts): the whole matrix of floats exists nowhere.
import { type Element, float, idiv, type Lookup } from '../kernel.ts';
import { defineOp, type Op, zip } from '../op.ts';
import { type Shape, ShapeError, same, show } from '../shape.ts';
import type { Tensor } from '../tensor.ts';

/**
 * What a code q stands for. s, z are the scale and the zero point of its block, v a table of values by code.
 * table: v[q]·s · shifted: v[q]·s + offset · affine: (q − z)·s · int8: q·s/127, q signed · f16, bf16: the number with these 16 bits.
 */
export type Form = 'table' | 'shifted' | 'affine' | 'int8' | 'f16' | 'bf16';

/** How a matrix is packed. A scheme is this description and whatever makes the codes. */
export interface Packing {
  readonly form: Form;
  /** Rows and columns of the whole packed matrix. */
  readonly shape: readonly [rows: number, cols: number];
  /** Bits of a code; the first code of a byte has its high bits, 16 bits are little-endian. */
  readonly bits: 2 | 4 | 8 | 16;
  /** Numbers that share a scale (and a zero point). */
  readonly block: number;
  /**
   * How codes and blocks follow each other. flat: in row-major order without gaps, across the ends of rows (bitsandbytes); rows: each row
   * begins a byte and a block, and its last ones may be shorter (groups of inputs of a weight [out, in]).
   */
  readonly along: 'flat' | 'rows';
  /** Zero points as bytes, whole numbers from 0 to 255; else they are floats. */
  readonly byteZeros: boolean;
  /** The rows that are read: from … to. */
  readonly from: number;
  readonly to: number;
}

type Matrix = readonly [rows: number, cols: number];
const PER_BYTE = 8;

/** The table of bytes that holds a matrix of codes: by rows where a row is whole bytes, else one row. */
export const codesShape = ([rows, cols]: Matrix, bits: number, along: Packing['along'] = 'flat'): Shape =>
  along === 'rows' || (cols * bits) % PER_BYTE === 0
    ? [rows, Math.ceil((cols * bits) / PER_BYTE)]
    : [1, Math.ceil((rows * cols * bits) / PER_BYTE)];

/** The table that holds one number per block: by rows where a row is whole blocks, else one row. */
export const blocksShape = ([rows, cols]: Matrix, block: number, along: Packing['along'] = 'flat'): Shape =>
  along === 'rows' || cols % block === 0 ? [rows, Math.ceil(cols / block)] : [1, Math.ceil((rows * cols) / block)];

/** ⌊i / n⌋ for a power of two n: exact below 2²³, where a division need not be. */
const shift = (i: string, n: number): string => (n === 1 ? i : `Math.floor((${i} + 0.5) * ${float(1 / n)})`);

/**
 * Where element (row, col) has its block. ⌊(row·cols + col) / block⌋ is split so that no product of a row and a column is divided: it would
 * pass 2²⁴ for large tables, and gpu.js counts in float32.
 */
function blockOf(row: string, col: string, { shape: [, cols], block, along }: Packing): readonly [row: string, col: string] {
  if (along === 'rows' || cols % block === 0) return [row, idiv(col, block)];
  const [whole, rest] = [Math.floor(cols / block), cols % block];
  const high = idiv(row, block); // row = high·block + low, so that row·rest / block = high·rest + low·rest / block
  const low = `(${row} - ${high} * ${block})`;
  return ['0', `${row} * ${whole} + ${high} * ${rest} + ${idiv(`${low} * ${rest} + ${col}`, block)}`];
}

/** Rows longer than this are addressed in two steps: gpu.js divides in float32. */
const LONG = 1 << 20;
const STRIDE = 4096; // 3·1365 + 1

/**
 * Byte `index` of a row of codes, as lines that end in `const ${n} = …`. Engines that hold only float32 keep three bytes in a number
 * (DESIGN §2.9), the first in the high bits. `read` reads a number by its column.
 */
function byteAt(n: string, index: string, length: number, read: (col: string) => string): string {
  const short = `const ${n}i = ${index};\n  const ${n}w = ${idiv(`${n}i`, 3)};\n  const ${n}j = ${n}i - ${n}w * 3;`;
  const long = `const ${n}i = ${index};
  const ${n}a = ${shift(`${n}i`, STRIDE)};
  const ${n}b = ${n}i - ${n}a * ${STRIDE - 1};
  const ${n}c = ${idiv(`${n}b`, 3)};
  const ${n}w = ${n}a * ${(STRIDE - 1) / 3} + ${n}c;
  const ${n}j = ${n}b - ${n}c * 3;`;
  return `${length > LONG ? long : short}
  const ${n}s = ${read(`${n}w`)} * (${n}j < 0.5 ? ${float(2 ** -16)} : (${n}j < 1.5 ? ${float(2 ** -8)} : 1.0));
  const ${n}h = Math.floor(${n}s);
  const ${n} = ${n}h - Math.floor(${n}h * ${float(2 ** -8)}) * 256.0;`;
}

/** One number of a packed matrix: lines to run first, and the expression of its value. Names begin with `n`. */
function lookup<K extends string>({ shapes, attrs: p, at }: Element<K, Packing>, [r, col]: readonly string[], n: string): Lookup {
  const read = at as (k: string, c: readonly string[]) => string; // every form reads only what it declares below
  const { form, bits, from } = p;
  const cols = p.shape[1];
  const codes = (shapes as Record<string, Shape>).codes!;
  const row = from === 0 ? r! : `(${r} + ${from})`;
  const byRows = p.along === 'rows' || (cols * bits) % PER_BYTE === 0;
  const byte = (name: string, index: string): string => byteAt(name, index, codes[1]!, (w) => read('codes', [byRows ? row : '0', w]));
  if (form === 'f16' || form === 'bf16') {
    // Sign and exponent choose a base and a step; the mantissa counts steps. Exact, like the tables (core/halves.ts).
    const lines = [byte(`${n}l`, `${col} * 2`), byte(`${n}u`, `${col} * 2 + 1`)];
    const e = `${n}e`;
    const [index, mantissa] =
      form === 'f16'
        ? [shift(`${n}u`, 4), `(${n}u - ${e} * 4.0) * 256.0 + ${n}l`]
        : [`${n}u * 2.0 + ${shift(`${n}l`, 128)}`, `${n}l - ${shift(`${n}l`, 128)} * 128.0`];
    return {
      before: [...lines, `const ${e} = ${index};`].join('\n  '),
      value: `(${read('values', ['0', e])} + (${mantissa}) * ${read('values', ['1', e])})`,
    };
  }
  const per = PER_BYTE / bits;
  const [whole, rest] = [Math.floor(cols / per), cols % per];
  const place = byRows ? col! : `(${row} * ${rest} + ${col})`; // codes after the row's first byte, or after row·whole bytes
  const lines: string[] = [];
  let code = `${n}y`;
  if (per === 1) lines.push(byte(code, col!));
  else {
    lines.push(`const ${n}p = ${place};`, `const ${n}q = ${shift(`${n}p`, per)};`);
    lines.push(byte(code, byRows ? `${n}q` : `${row} * ${whole} + ${n}q`));
    let slot = `${n}p - ${n}q * ${per}`;
    for (let width = per / 2, value = 2 ** (PER_BYTE / 2), k = 0; width >= 1; width /= 2, value = Math.sqrt(value), k++) {
      // the high or the low half of what is left, by one digit of the slot
      lines.push(`const ${n}k${k} = ${slot};`, `const ${n}d${k} = ${shift(`${n}k${k}`, width)};`);
      lines.push(`const ${n}g${k} = Math.floor(${code} * ${float(1 / value)});`);
      lines.push(`const ${n}v${k} = ${n}d${k} * (${code} - ${n}g${k} * ${float(value)}) + (1.0 - ${n}d${k}) * ${n}g${k};`);
      code = `${n}v${k}`;
      slot = `${n}k${k} - ${n}d${k} * ${width}`;
    }
  }
  const block = blockOf(row, col!, p);
  const scale = read('scales', block);
  switch (form) {
    case 'table':
      return { before: lines.join('\n  '), value: `(${read('values', ['0', code])} * ${scale})` };
    case 'shifted':
      return { before: lines.join('\n  '), value: `(${read('values', ['0', code])} * ${scale} + ${read('offset', ['0'])})` };
    case 'affine': {
      if (!p.byteZeros) return { before: lines.join('\n  '), value: `((${code} - ${read('zeros', block)}) * ${scale})` };
      const zero = byteAt(`${n}z`, block[1], (shapes as Record<string, Shape>).zeros![1]!, (w) => read('zeros', [block[0], w]));
      return { before: [...lines, zero].join('\n  '), value: `((${code} - ${n}z) * ${scale})` };
    }
    case 'int8':
      return { before: lines.join('\n  '), value: `((${code} - ${shift(code, 128)} * 256.0) * ${scale} / 127.0)` };
    default:
      return form satisfies never;
  }
}

const tableShape = { f16: [2, 64], bf16: [2, 512] } as const;

function declare<K extends string>(
  form: Form,
  inputs: readonly ('codes' | K)[],
  bytes: readonly ('codes' | K)[] = ['codes'],
): Op<'codes' | K, Packing> {
  return defineOp<'codes' | K, Packing>({
    name: 'unpack',
    inputs,
    bytes,
    recompute: true,
    rows: (p, from, to) => ({ ...p, from: p.from + from, to: p.from + to }),
    shape: (shapes, p) => {
      const { shape, bits, block, from, to } = p;
      const what = `unpack: a matrix ${show(shape)} of ${bits} bits in blocks of ${block}`;
      if (p.form !== form) throw new ShapeError(`${what} was packed as ${p.form}, not as ${form}`);
      if (!(Number.isInteger(block) && block >= 1)) throw new ShapeError(`${what}: a block must be a whole number from 1`);
      if (!(from >= 0 && from < to && to <= shape[0])) throw new ShapeError(`${what} has no rows ${from}…${to}`);
      if ((bits === 16) !== (form === 'f16' || form === 'bf16') || (form === 'int8' && bits !== 8))
        throw new ShapeError(`${what}: ${form} does not have codes of ${bits} bits`);
      const perBlock = blocksShape(shape, block, p.along);
      const expected: Record<string, Shape> = {
        codes: codesShape(shape, bits, p.along),
        scales: perBlock,
        zeros: perBlock,
        values: form === 'f16' || form === 'bf16' ? tableShape[form] : [1, 2 ** bits],
        offset: [1],
      };
      for (const k of inputs) {
        const s = shapes[k];
        if (!same(s, expected[k]!)) throw new ShapeError(`${what} needs ${k} ${show(expected[k]!)}, got ${show(s)}`);
      }
      return [to - from, shape[1]];
    },
    kernel: { kind: 'element', value: lookup },
    vjp: () => Object.fromEntries(inputs.map((k) => [k, null])) as Record<'codes' | K, null>, // frozen
    flops: (_, out) => (form === 'f16' || form === 'bf16' ? 0 : form === 'table' ? 1 : 2) * out.reduce((a, b) => a * b, 1),
  });
}

const tableOp: Op<'codes' | 'scales' | 'values', Packing> = declare('table', ['codes', 'scales', 'values']);
const shiftedOp: Op<'codes' | 'scales' | 'values' | 'offset', Packing> = declare('shifted', ['codes', 'scales', 'values', 'offset']);
const affineOp: Op<'codes' | 'scales' | 'zeros', Packing> = declare('affine', ['codes', 'scales', 'zeros']);
const affineBytesOp: Op<'codes' | 'scales' | 'zeros', Packing> = declare('affine', ['codes', 'scales', 'zeros'], ['codes', 'zeros']);
const int8Op: Op<'codes' | 'scales', Packing> = declare('int8', ['codes', 'scales']);
const f16Op: Op<'codes' | 'values', Packing> = declare('f16', ['codes', 'values']);
const bf16Op: Op<'codes' | 'values', Packing> = declare('bf16', ['codes', 'values']);

/** What a scheme says of its packing; the rest follows from the form. */
export interface Layout {
  readonly shape: Matrix;
  readonly bits: 2 | 4 | 8;
  readonly block: number;
  readonly along?: Packing['along'];
}
const packing = (form: Form, { shape, bits, block, along = 'flat' }: Layout): Packing => ({
  form,
  shape: [shape[0], shape[1]],
  bits,
  block,
  along,
  byteZeros: false,
  from: 0,
  to: shape[0],
});

/** codes in bytes (`codesShape`), scales per block (`blocksShape`), values [1, 2^bits] → values[q]·scale [rows, cols]. Frozen. */
export const unpackTable = (ins: { codes: Tensor; scales: Tensor; values: Tensor }, l: Layout): Tensor => tableOp(ins, packing('table', l));
/** The same plus one offset [1]: values[q]·scale + offset. */
export const unpackShifted = (ins: { codes: Tensor; scales: Tensor; values: Tensor; offset: Tensor }, l: Layout): Tensor =>
  shiftedOp(ins, packing('shifted', l));
/**
 * codes in bytes, scales and zero points per block → (q − zero)·scale [rows, cols]. Zero points that are a frozen Uint8Array stay bytes;
 * others may be fractions, or a recipe. Frozen.
 */
export function unpackAffine(ins: { codes: Tensor; scales: Tensor; zeros: Tensor }, l: Layout): Tensor {
  const s = ins.zeros.source;
  return s.kind === 'leaf' && s.data instanceof Uint8Array
    ? affineBytesOp(ins, { ...packing('affine', l), byteZeros: true })
    : affineOp(ins, packing('affine', l));
}
/** Signed bytes [rows, cols] and scales per block → q·scale/127. Frozen. */
export const unpackInt8 = (ins: { codes: Tensor; scales: Tensor }, l: Omit<Layout, 'bits'>): Tensor =>
  int8Op(ins, packing('int8', { ...l, bits: 8 }));
/** Two bytes a number, little-endian [rows, 2·cols], and the table of bases and steps → the numbers [rows, cols]. Frozen. */
export const unpackHalf = (form: 'f16' | 'bf16', ins: { codes: Tensor; values: Tensor }, shape: Matrix): Tensor =>
  (form === 'f16' ? f16Op : bf16Op)(ins, {
    form,
    shape: [shape[0], shape[1]],
    bits: 16,
    block: 1,
    along: 'flat',
    byteZeros: false,
    from: 0,
    to: shape[0],
  });

/** What an unpacked matrix is made of, by the names of its form; null for any other recipe. */
export function packedParts(t: Tensor): { readonly packing: Packing; readonly parts: Readonly<Record<string, Tensor>> } | null {
  const s = t.source;
  if (s.kind !== 'apply' || s.op.name !== 'unpack') return null;
  return { packing: s.attrs as Packing, parts: zip(s.op.inputs, s.ins) }; // the op's name says what its attributes are
}
