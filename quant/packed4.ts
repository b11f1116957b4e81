// A weight in four bits made of its parts, and the parts of one: for files, where somebody else has packed it.
import { blocksShape, codesShape, unpackShifted, unpackTable } from '../core/ops/unpack.ts';
import { ShapeError, show, size } from '../core/shape.ts';
import { type Data, leaf, Tensor } from '../core/tensor.ts';
import { type AnyLayer, type Field, isRecord, type Layer, layer } from '../nn/layer.ts';

/** Scales in eight bits: codes into `values` (256), one scale per `block` of them, and what is added to all. */
export interface NestedScales {
  readonly codes: Uint8Array;
  readonly scales: Float32Array;
  readonly values: Float32Array;
  readonly offset: number;
  readonly block: number;
}
export interface Packed4 {
  readonly shape: readonly [rows: number, cols: number];
  readonly codes: Uint8Array; // two weights a byte, the first in the high half
  readonly values: Float32Array; // the 16 numbers that codes stand for
  readonly block: number; // consecutive weights that share a scale
  readonly scales: Float32Array | NestedScales;
}

/** The weight layer that `quantize` with nf4 or fp4 makes, from parts. Throws when they do not fit each other. */
export function packed4({ shape, codes, values, block, scales }: Packed4): Layer<'weight'> {
  const n = size(shape);
  const blocks = Math.ceil(n / block);
  const need = (what: string, length: number, wanted: number): void => {
    if (length !== wanted) throw new ShapeError(`packed4: ${what} ${length}, but ${show(shape)} in blocks of ${block} needs ${wanted}`);
  };
  need('bytes of codes:', codes.length, Math.ceil(n / 2));
  need('numbers in the table:', values.length, 16);
  const fields = { codes: leaf(codes, codesShape(shape, 4)), values: leaf(values, [1, 16]) };
  const table = blocksShape(shape, block) as readonly [number, number];
  if (scales instanceof Float32Array) {
    need('scales:', scales.length, blocks);
    return layer(
      'weight',
      { ...fields, scales: { absmax: leaf(scales, table) } },
      (f) => () => unpackTable({ codes: f.codes, scales: f.scales.absmax, values: f.values }, { shape, bits: 4, block }),
    );
  }
  need('codes of scales:', scales.codes.length, blocks);
  need('scales of scales:', scales.scales.length, Math.ceil(blocks / scales.block));
  need('numbers in the table of scales:', scales.values.length, 256);
  const nested = {
    codes: leaf(scales.codes, table),
    absmax: leaf(scales.scales, blocksShape(table, scales.block)),
    values: leaf(scales.values, [1, 256]),
    offset: leaf([scales.offset], [1]),
  };
  return layer('weight', { ...fields, scales: nested }, (f) => () => {
    const { codes: q, absmax, values: map, offset } = f.scales;
    const all = unpackShifted({ codes: q, scales: absmax, values: map, offset }, { shape: table, bits: 8, block: scales.block });
    return unpackTable({ codes: f.codes, scales: all, values: f.values }, { shape, bits: 4, block });
  });
}

const held = (f: Field | undefined): Data | null => (f instanceof Tensor && f.source.kind === 'leaf' ? f.source.data : null);
const floats = (d: Data): Float32Array => (d instanceof Float32Array ? d : Float32Array.from(d));

/** The parts of a weight in four bits, or null where the layer is another. Block sizes follow from the numbers of scales; `shape` is its [rows, cols]. */
export function partsOf4(l: AnyLayer, shape: readonly [number, number]): Packed4 | null {
  const { codes: q, values: v, scales: s } = l.fields;
  const [codes, values] = [held(q), held(v)];
  if (!(codes instanceof Uint8Array) || values?.length !== 16 || !isRecord(s)) return null;
  const scales = held(s.absmax);
  if (scales === null) return null;
  const common = { shape, codes, values: floats(values) };
  const nested = held(s.codes);
  if (nested === null) return { ...common, block: blockOf(size(shape), scales.length), scales: floats(scales) };
  const [map, offset] = [held(s.values), held(s.offset)];
  if (map === null || offset === null || !(nested instanceof Uint8Array)) return null;
  return {
    ...common,
    block: blockOf(size(shape), nested.length),
    scales: {
      codes: nested,
      scales: floats(scales),
      values: floats(map),
      offset: offset[0]!,
      block: blockOf(nested.length, scales.length, 256),
    },
  };
}
/** The power of two that cuts n numbers into so many blocks. Where one block has them all, many do and none makes a difference: `otherwise`, or the least. */
function blockOf(n: number, blocks: number, otherwise = 64): number {
  const fits = Array.from({ length: 20 }, (_, k) => 2 ** k).filter((b) => Math.ceil(n / b) === blocks);
  if (fits.includes(otherwise)) return otherwise;
  if (fits.length === 0) throw new ShapeError(`partsOf4: ${blocks} scales for ${n} numbers: no power of two is the block`);
  return fits[0]!;
}
