// A language model out of a GGUF file: LLaMA's or Qwen2's names and metadata become our decoder, with frozen weights.
import type { MetadataValue } from '@huggingface/gguf';
import type { Engine } from '../core/engine.ts';
import { same, show } from '../core/shape.ts';
import { leaf, type Tensor } from '../core/tensor.ts';
import { type DecoderConfig, llama } from '../nn/decoder.ts';
import { moveTo } from '../nn/freeze.ts';
import type { Field, Layer, Model } from '../nn/layer.ts';
import { weight } from '../nn/linear.ts';
import { substitute, tensors } from '../nn/tree.ts';
import type { Scheme, WeightChoice } from '../quant/quantize.ts';
import { skeleton } from './checkpoints/skeleton.ts';
import { some } from './files.ts';
import type { GgufFile } from './gguf.ts';
import { decodeBlocks } from './ggufBlocks.ts';
import type { GgufEntry } from './ggufHeader.ts';
import { packedWeight } from './ggufPacked.ts';

/**
 * Architectures of GGUF that are this decoder: the biases they have, and whether their files keep the two numbers of a rotated pair side by side
 * (llama.cpp rotates qwen2 as transformers does, and its converter leaves the rows where they were).
 */
const ARCHITECTURES = {
  llama: { bias: { qkv: false, o: false, mlp: false }, pairs: true },
  qwen2: { bias: { qkv: true, o: false, mlp: false }, pairs: false },
} as const;
type GgufArchitecture = keyof typeof ARCHITECTURES;

/** The architecture and sizes in a file's metadata, every one checked. Throws where the file holds a model that this decoder does not describe. */
export function ggufConfig({ path, metadata, entries }: Pick<GgufFile, 'path' | 'metadata' | 'entries'>): {
  readonly architecture: GgufArchitecture;
  readonly sizes: DecoderConfig;
} {
  const refuse = (what: string): never => {
    throw new Error(`${path}: ${what}`);
  };
  const kind = metadata.get('general.architecture');
  if (typeof kind !== 'string' || !Object.hasOwn(ARCHITECTURES, kind))
    return refuse(`general.architecture is ${told(kind)}; this loader knows ${Object.keys(ARCHITECTURES).join(' and ')}`);
  const architecture = kind as GgufArchitecture;
  const number = (key: string, otherwise: number | null, fits: (n: number) => boolean, must: string): number => {
    const v = metadata.get(`${architecture}.${key}`) ?? otherwise;
    const n = typeof v === 'bigint' ? Number(v) : v;
    return typeof n === 'number' && fits(n) ? n : refuse(`${architecture}.${key} is ${told(v)}; it must be ${must}`);
  };
  const count = (key: string, otherwise: number | null = null): number =>
    number(key, otherwise, (n) => Number.isSafeInteger(n) && n >= 1, 'a whole number from 1');
  const [width, heads] = [count('embedding_length'), count('attention.head_count')];
  const kvHeads = count('attention.head_count_kv', heads);
  if (width % heads !== 0) refuse(`${architecture}.embedding_length ${width} does not divide into ${heads} heads`);
  if (heads % kvHeads !== 0) refuse(`${architecture}.attention.head_count ${heads} does not divide among ${kvHeads} key heads`);
  const each = width / heads;
  if (each % 2 !== 0)
    refuse(
      `heads of ${each} numbers cannot be rotated: ${architecture}.embedding_length / ${architecture}.attention.head_count must be even`,
    );
  for (const key of ['rope.dimension_count', 'attention.key_length', 'attention.value_length'])
    if (count(key, each) !== each)
      refuse(`${architecture}.${key} is ${count(key)}, but heads are ${each} wide; only heads rotated as a whole are supported`);
  if ((metadata.get(`${architecture}.expert_count`) ?? 0) !== 0) refuse('holds a mixture of experts; only dense models are supported');
  const vocabulary = entries.get('token_embd.weight')?.shape[0] ?? refuse('has no tensor token_embd.weight');
  const sizes = llama({
    ...{ vocabulary, width, heads, kvHeads },
    layers: count('block_count'),
    inner: count('feed_forward_length'),
    positions: count('context_length'),
    rope: {
      base: number('rope.freq_base', 10000, (n) => Number.isFinite(n) && n > 0, 'a number above 0'),
      scale: 1 / scalingFactor(architecture, metadata, entries, refuse),
    },
    eps: number('attention.layer_norm_rms_epsilon', null, (n) => Number.isFinite(n) && n >= 0, 'a number from 0'),
    tied: !entries.has('output.weight'),
  });
  return { architecture, sizes: { ...sizes, bias: ARCHITECTURES[architecture].bias } };
}
const told = (v: MetadataValue | null | undefined): string =>
  typeof v === 'bigint' ? String(v) : (JSON.stringify(v ?? undefined) ?? 'missing');

/** How far positions are stretched: by one factor for all frequencies, which is what our rotation knows. */
function scalingFactor(
  architecture: GgufArchitecture,
  metadata: ReadonlyMap<string, MetadataValue>,
  entries: ReadonlyMap<string, GgufEntry>,
  refuse: (what: string) => never,
): number {
  if (entries.has('rope_freqs.weight'))
    return refuse(
      'scales every frequency of its rotary positions on its own (rope_freqs.weight, as Llama 3.1 does), which is not supported',
    );
  const kind = metadata.get(`${architecture}.rope.scaling.type`) ?? 'none';
  const factor = metadata.get(`${architecture}.rope.scaling.factor`) ?? metadata.get(`${architecture}.rope.scale_linear`) ?? 1;
  if (kind !== 'linear' && kind !== 'none') return refuse(`${architecture}.rope.scaling.type is ${told(kind)}; known are none and linear`);
  if (typeof factor !== 'number' || !(factor >= 0))
    return refuse(`${architecture}.rope.scaling.factor is ${told(factor)}; it must be a number above 0`);
  return factor === 0 ? 1 : factor;
}

/** Our place → the name GGUF has for it. */
const PLACES: readonly (readonly [RegExp, string])[] = [
  [/^embed\b/, 'token_embd'],
  [/^head\b/, 'output'],
  [/^trunk\.norm\b/, 'output_norm'],
  [/^trunk\.blocks\./, 'blk.'],
  [/\.norm1\b/, '.attn_norm'],
  [/\.norm2\b/, '.ffn_norm'],
  [/\.attn\.o\b/, '.attn_output'],
  [/\.attn\.([qkv])\b/, '.attn_$1'],
  [/\.mlp\.(\w+)/, '.ffn_$1'],
];
const nameOf = (path: string): string => PLACES.reduce((p, [from, to]) => p.replace(from, to), path);

/**
 * Rows of the projections of queries and keys in our order. Rotary positions turn pairs of numbers. Files of GGUF's llama keep the two of
 * a pair side by side, (0, 1), (2, 3), …; this decoder pairs number k with number k + D/2. `w` is anything of equally long rows.
 */
export function pairsApart(w: Uint8Array, rows: number, heads: number): Uint8Array {
  const [length, each] = [w.length / rows, rows / heads];
  const out = new Uint8Array(w.length);
  for (let r = 0; r < rows; r++) {
    const [head, k] = [Math.floor(r / each), r % each];
    const from = head * each + (k < each / 2 ? 2 * k : 2 * (k - each / 2) + 1);
    out.set(w.subarray(from * length, (from + 1) * length), r * length);
  }
  return out;
}

export interface GgufModelOptions {
  /**
   * What becomes of matrices: `keep` (default) leaves Q8_0, Q4_0, Q4_1, F16 and BF16 as small as they are stored (the other formats are
   * unpacked), `float32` unpacks them all. Norms are float32 always.
   */
  readonly dtype?: 'float32' | 'keep';
  /** Matrices to pack as they are read, so that the whole network never is in memory unpacked: `quantize`'s choice and scheme. */
  readonly quantize?: { readonly where: WeightChoice; readonly scheme: Scheme };
  /** An engine whose own memory takes the numbers as they are read, where it can (see `moveTo`): they are held once. */
  readonly engine?: Pick<Engine, 'adopt'>;
}

/** The model in a GGUF file, frozen. Throws where tensors are missing, unknown or of other shapes. */
export async function readGgufModel(
  file: GgufFile,
  { dtype = 'keep', quantize, engine = {} }: GgufModelOptions = {},
): Promise<{ readonly model: Model; readonly architecture: GgufArchitecture; readonly config: DecoderConfig }> {
  const { architecture, sizes: config } = ggufConfig(file);
  const { pairs } = ARCHITECTURES[architecture];
  const network = skeleton({ architecture, head: 'language', classes: 0, sizes: config });
  const holes = new Map<Tensor, { readonly name: string; readonly path: string }>(); // a tied head is the embedding's
  for (const { path, tensor } of tensors(network)) if (!holes.has(tensor)) holes.set(tensor, { name: nameOf(path), path });
  check(file, holes);
  const made = new Map<Field, Layer<'weight'>>();
  for (const [hole, { name, path }] of holes) {
    const { format } = file.entry(name);
    const rotated = path.endsWith('.attn.q.weight') ? config.heads : path.endsWith('.attn.k.weight') ? config.kvHeads : null;
    const heads = pairs ? rotated : null;
    const stored = await file.bytes(name);
    const bytes = heads === null ? stored : pairsApart(stored, hole.shape[0]!, heads);
    const [rows, cols] = hole.shape;
    const matrix = cols !== undefined;
    const put = (w: Layer<'weight'>): unknown => made.set(hole, moveTo(w, engine));
    if (matrix && quantize?.where(path)) put(quantize.scheme.pack(decodeBlocks(bytes, format), hole.shape));
    else {
      const kept = matrix && dtype === 'keep' ? packedWeight(bytes, [rows!, cols], format) : null;
      put(kept ?? weight(leaf(decodeBlocks(bytes, format), hole.shape)));
    }
  }
  return { architecture, config, model: substitute(network, 'weight', (l) => made.get(l.fields.value ?? null) ?? null) };
}

function check(file: GgufFile, holes: ReadonlyMap<Tensor, { readonly name: string }>): void {
  const shapes = new Map([...holes].map(([t, { name }]) => [name, t.shape]));
  const missing = [...shapes.keys()].filter((n) => !file.entries.has(n));
  const unknown = [...file.entries.keys()].filter((n) => !shapes.has(n));
  const wrong = [...shapes].flatMap(([name, shape]) => {
    const e = file.entries.get(name);
    return e === undefined || same(e.shape, shape) ? [] : [`${name} is ${show(e.shape)}, by the metadata it should be ${show(shape)}`];
  });
  if (missing.length > 0) wrong.push(`missing: ${some(missing)}`);
  if (unknown.length > 0) wrong.push(`unknown: ${some(unknown)}`);
  if (wrong.length > 0)
    throw new Error(`${file.path}: these are not the tensors its metadata describes:\n  ${wrong.slice(0, 12).join('\n  ')}`);
}
