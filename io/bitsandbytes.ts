// Four-bit weights as bitsandbytes saves them: codes in one column of bytes, and beside them scales, tables, and a line of JSON as bytes.
//   X.weight U8 [⌈n/2⌉, 1], X.weight.absmax F32 [blocks] (or U8, when scales are packed too), X.weight.quant_map F32 [16],
//   X.weight.nested_absmax F32, .nested_quant_map F32 [256], X.weight.quant_state.bitsandbytes__nf4 U8: {"quant_type", "blocksize", "dtype", "shape", …}
import { z } from 'zod';
import { size } from '../core/shape.ts';
import type { Data } from '../core/tensor.ts';
import type { AnyLayer, Layer } from '../nn/layer.ts';
import { fp4Code, nf4Code } from '../quant/nf4.ts';
import { type NestedScales, type Packed4, packed4, partsOf4 } from '../quant/packed4.ts';
import type { TensorFile } from './files.ts';
import { parsePython, pythonFloat } from './peft/pythonJson.ts';
import type { Writable } from './safetensors.ts';

const TYPES = ['nf4', 'fp4'] as const;
type Type = (typeof TYPES)[number];
const STATE = /\.quant_state\.bitsandbytes__(nf4|fp4)$/;
const FLOATS = ['float32', 'float16', 'bfloat16'] as const;

const state = z.object({
  quant_type: z.enum(TYPES),
  blocksize: z.int().min(1).max(4096),
  dtype: z.enum(FLOATS),
  shape: z.tuple([z.int().min(1), z.int().min(1)]),
  nested_blocksize: z.int().min(1).max(65536).optional(),
  nested_dtype: z.enum(FLOATS).optional(),
  nested_offset: z.number().optional(),
});
type State = z.infer<typeof state>;

/** Names of the weights in a file that are packed in four bits: model.layers.0.mlp.up_proj.weight. */
export const fourBitNames = (names: Iterable<string>): string[] => [...names].filter((n) => STATE.test(n)).map((n) => n.replace(STATE, ''));
/** What belongs to a packed weight besides its codes. */
export const fourBitParts = (name: string, names: Iterable<string>): string[] =>
  [...names].filter((n) => n.startsWith(`${name}.`) && (STATE.test(n) || PARTS.includes(n.slice(name.length + 1))));
const PARTS: readonly string[] = ['absmax', 'quant_map', 'nested_absmax', 'nested_quant_map'];

/**
 * A packed weight of a file as a frozen layer that unpacks where it is used; `name` as `fourBitNames` has it. Throws, naming tensor and file, when a
 * part is missing or does not fit.
 */
export async function readFourBit(file: Pick<TensorFile, 'path' | 'entries' | 'read' | 'bytes'>, name: string): Promise<Layer<'weight'>> {
  const refuse = (what: string): never => {
    throw new Error(`${file.path}: ${name} ${what}; save the model again with save_pretrained, or load it without quantisation`);
  };
  const key = [...file.entries.keys()].find((n) => n.startsWith(`${name}.quant_state.`)) ?? refuse('has no quant_state');
  const s = parseState(new TextDecoder().decode(await file.bytes(key)), `${file.path}, ${key}`);
  if (!key.endsWith(s.quant_type)) refuse(`says ${s.quant_type} in ${key}`);
  const part = async <D extends Data>(suffix: string, type: new (...a: never[]) => D): Promise<D> => {
    const full = suffix === '' ? name : `${name}.${suffix}`;
    if (!file.entries.has(full)) return refuse(`has no ${suffix}`);
    const data = await file.read(full);
    return data instanceof type ? data : refuse(`has ${file.entries.get(full)!.dtype} in ${suffix === '' ? 'its codes' : suffix}`);
  };
  const common = {
    shape: s.shape,
    block: s.blocksize,
    codes: await part('', Uint8Array),
    values: await part('quant_map', Float32Array),
  };
  const scales: Float32Array | NestedScales =
    s.nested_blocksize === undefined
      ? await part('absmax', Float32Array)
      : {
          codes: await part('absmax', Uint8Array),
          scales: await part('nested_absmax', Float32Array),
          values: await part('nested_quant_map', Float32Array),
          offset: s.nested_offset ?? refuse('has no nested_offset'),
          block: s.nested_blocksize,
        };
  try {
    return packed4({ ...common, scales });
  } catch (e) {
    return refuse(`does not fit together: ${(e as Error).message}`);
  }
}
function parseState(text: string, where: string): State {
  const answer = state.safeParse(parsePython(text, where).value);
  if (answer.success) return answer.data;
  const { path, message } = answer.error.issues[0]!;
  throw new Error(`${where}: ${path.join('.') || 'the state'}: ${message}; this is no four-bit weight of bitsandbytes`);
}

/** How bitsandbytes calls a way of packing: its table of 16 numbers, and whether scales are packed too. */
export interface FourBitKind {
  readonly type: Type;
  readonly nested: boolean;
}
/** What it computes with: consecutive weights that share a scale, and scales that share one of their own. */
const BLOCKS: readonly number[] = [32, 64, 128, 256, 512, 1024, 2048, 4096];
const NESTED_BLOCK = 256;

/** How a layer's weight is packed. Throws where bitsandbytes has no file for it, with the reason. */
export function fourBitKind(layer: AnyLayer, shape: readonly [number, number]): FourBitKind {
  return kindOf(parts4(layer, shape));
}
function parts4(layer: AnyLayer, shape: readonly [number, number]): Packed4 {
  const parts = partsOf4(layer, shape);
  if (parts === null) throw new Error('not by nf4 or fp4, and bitsandbytes has no file for other ways');
  return parts;
}
function kindOf({ values, block, scales }: Packed4): FourBitKind {
  if (!BLOCKS.includes(block)) throw new Error(`in blocks of ${block}, and bitsandbytes has blocks of ${BLOCKS.join(', ')}`);
  const nested = !(scales instanceof Float32Array);
  if (nested && scales.block !== NESTED_BLOCK)
    throw new Error(`with scales in blocks of ${scales.block}, and bitsandbytes has them in blocks of ${NESTED_BLOCK}`);
  return { type: typeOf(values), nested };
}

/**
 * The tensors that bitsandbytes has for a weight packed by nf4 or fp4, with or without double quantisation. `dtype` is what the library unpacks to.
 * Throws when the layer is packed in another way.
 */
export function fourBitTensors(
  name: string,
  layer: AnyLayer,
  shape: readonly [number, number],
  dtype: State['dtype'] = 'float32',
): Map<string, Writable> {
  const parts = parts4(layer, shape);
  const { type } = kindOf(parts);
  const out = new Map<string, Writable>();
  const put = (suffix: string, data: Data, of: readonly number[]): unknown =>
    out.set(suffix === '' ? name : `${name}.${suffix}`, { data, shape: of });
  put('', parts.codes, [Math.ceil(size(shape) / 2), 1]);
  put(
    'quant_map',
    parts.values.map((v) => v + 0),
    [16],
  ); // FP4's unused −0 is 0 there
  const { scales } = parts;
  let more = '';
  if (scales instanceof Float32Array) put('absmax', scales, [scales.length]);
  else {
    put('absmax', scales.codes, [scales.codes.length]);
    put('nested_absmax', scales.scales, [scales.scales.length]);
    put('nested_quant_map', scales.values, [256]);
    more = `, "nested_blocksize": ${scales.block}, "nested_dtype": "float32", "nested_offset": ${pythonFloat(scales.offset)}`;
  }
  const json = `{"quant_type": "${type}", "blocksize": ${parts.block}, "dtype": "${dtype}", "shape": [${shape.join(', ')}]${more}}`;
  const bytes = new TextEncoder().encode(json);
  put(`quant_state.bitsandbytes__${type}`, bytes, [bytes.length]);
  return out;
}
/** Whose table it is. */
function typeOf(values: Float32Array): Type {
  const is = (book: ArrayLike<number>): boolean => values.every((v, k) => v === Math.fround(book[k]!));
  if (is(nf4Code.values)) return 'nf4';
  if (is(fp4Code.values)) return 'fp4';
  throw new Error("with a table of 16 numbers that is neither NF4's nor FP4's, and bitsandbytes has only those");
}
