// Packed weights on their way into a checkpoint: matrices in four bits as bitsandbytes has them, and what config.json says of them.
import { within } from '../../core/scope.ts';
import { input, type Tensor } from '../../core/tensor.ts';
import type { AnyLayer, Layer, Model } from '../../nn/layer.ts';
import { isPacked, weight } from '../../nn/linear.ts';
import { substitute } from '../../nn/tree.ts';
import { type FourBitKind, fourBitKind, fourBitTensors } from '../bitsandbytes.ts';
import type { Writable } from '../safetensors.ts';
import type { CheckpointConfig, JsonObject } from './config.ts';
import type { Slot } from './slots.ts';

type Matrix = readonly [rows: number, cols: number];
export type FloatName = 'float32' | 'float16' | 'bfloat16';
/** A packed weight, and what bitsandbytes calls its way of packing. */
interface Packed {
  readonly layer: AnyLayer<'weight'>;
  readonly kind: FourBitKind;
}
export interface SetAside {
  /** The model with an empty place, a shape without numbers, for each packed weight: its tree is that of the network unpacked. */
  readonly model: Model;
  readonly packed: ReadonlyMap<Tensor, Packed>; // by what stands in their place
}

const refuse = (path: string, why: string): never => {
  throw new Error(`saveCheckpoint: ${path} ${why}; save \`await realize(unpacked(model), engine)\` to write what it stands for`);
};

/** Takes a model's packed weights out of it. Throws, naming the first, where one is packed in a way that bitsandbytes has no file for. */
export function setAside(model: Model): SetAside {
  const packed = new Map<Tensor, Packed>();
  const places = new Map<AnyLayer, Layer<'weight'>>(); // a weight in two places stays one
  let first: { readonly path: string; readonly kind: FourBitKind } | null = null;
  const whole = substitute(model, 'weight', (l, path) => {
    if (!isPacked(l)) return null;
    const done = places.get(l);
    if (done !== undefined) return done;
    const { shape } = within({ path }, l);
    const kind = kindOf(l, shape, path);
    first ??= { path, kind };
    if (first.kind.type !== kind.type || first.kind.nested !== kind.nested)
      return refuse(path, `is packed as ${named(kind)}, but ${first.path} as ${named(first.kind)}, and a config.json has one way for all`);
    const hole = input('a packed weight', shape);
    packed.set(hole, { layer: l, kind });
    const place = weight(hole);
    places.set(l, place);
    return place;
  });
  return { model: whole, packed };
}
function kindOf(l: AnyLayer, shape: readonly number[], path: string): FourBitKind {
  try {
    return fourBitKind(l, shape as Matrix);
  } catch (e) {
    return refuse(path, `is packed: ${(e as Error).message}`);
  }
}
const named = ({ type, nested }: FourBitKind): string => `${type} with ${nested ? 'double-quantised' : 'float32'} scales`;

/** Throws where a packed weight is not a whole linear layer of theirs. */
export function checkPlaces(slots: readonly Slot[], packed: SetAside['packed']): void {
  for (const { path, name, kind, tensor, rows } of slots) {
    if (!packed.has(tensor)) continue;
    if (kind !== 'linear') refuse(path, `is packed, and bitsandbytes packs linear layers alone, no ${kind}`);
    if (rows !== null)
      refuse(path, `is packed, and ${name} is one matrix of ${rows.of} rows there, whose blocks would cross from part to part`);
  }
}

/** The tensors bitsandbytes has for a packed weight. They lie [out, in] for GPT-2's layers as well, whose plain weights lie [in, out]. */
export const packedTensors = ({ name, tensor }: Slot, { layer }: Packed, dtype: FloatName): Map<string, Writable> =>
  fourBitTensors(name, layer, tensor.shape as Matrix, dtype);

/**
 * What config.json says of packed weights, so that transformers makes four-bit layers where they are and nowhere else; nothing where none is packed.
 * What stood there `before` of other things stays.
 */
export function quantizationConfig(
  slots: readonly Slot[],
  packed: SetAside['packed'],
  config: CheckpointConfig,
  dtype: FloatName,
  before: JsonObject['quantization_config'] = null,
): JsonObject {
  const [one] = packed.values();
  if (one === undefined) return {};
  const plain = slots.filter((s) => s.kind === 'linear' && s.name.endsWith('.weight') && !packed.has(s.tensor));
  // linear layers of theirs that this library leaves aside: an encoder's pooler
  const more = config.architecture !== 'gpt2' && config.head === 'none' ? ['pooler.dense'] : [];
  const tied = config.head === 'language' && !slots.some((s) => s.path.startsWith('head.')) ? ['lm_head'] : [];
  return {
    quantization_config: {
      ...(typeof before === 'object' && !Array.isArray(before) ? before : {}),
      ...{ quant_method: 'bitsandbytes', load_in_4bit: true, load_in_8bit: false, _load_in_4bit: true, _load_in_8bit: false },
      ...{ bnb_4bit_quant_type: one.kind.type, bnb_4bit_use_double_quant: one.kind.nested },
      ...{ bnb_4bit_compute_dtype: dtype, bnb_4bit_quant_storage: 'uint8' },
      llm_int8_skip_modules: [...plain.map((s) => s.name.replace(/\.weight$/, '')), ...tied, ...more],
    },
  };
}
