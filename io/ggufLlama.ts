// A language model out of a GGUF file: LLaMA's names and metadata become our decoder, with frozen weights.
import type { MetadataValue } from '@huggingface/gguf';
import { same, show } from '../core/shape.ts';
import { leaf, type Tensor } from '../core/tensor.ts';
import { selfAttention } from '../nn/attention.ts';
import { preNormBlock } from '../nn/block.ts';
import { type DecoderConfig, languageModel, llama, tiedHead, trunk } from '../nn/decoder.ts';
import { embedding } from '../nn/embedding.ts';
import type { Layer, Model } from '../nn/layer.ts';
import { linear, weight } from '../nn/linear.ts';
import { gatedMlp } from '../nn/mlp.ts';
import { rmsNorm } from '../nn/norm.ts';
import { some } from './files.ts';
import type { GgufFile } from './gguf.ts';
import type { GgufEntry } from './ggufHeader.ts';

/** The sizes in a file's metadata, every one checked. Throws where the file holds a model that this decoder does not describe. */
export function ggufConfig({ path, metadata, entries }: Pick<GgufFile, 'path' | 'metadata' | 'entries'>): DecoderConfig {
  const refuse = (what: string): never => {
    throw new Error(`${path}: ${what}`);
  };
  const kind = metadata.get('general.architecture');
  if (kind !== 'llama') refuse(`general.architecture is ${told(kind)}; this loader knows llama`);
  const number = (key: string, otherwise: number | null, fits: (n: number) => boolean, must: string): number => {
    const v = metadata.get(`llama.${key}`) ?? otherwise;
    const n = typeof v === 'bigint' ? Number(v) : v;
    return typeof n === 'number' && fits(n) ? n : refuse(`llama.${key} is ${told(v)}; it must be ${must}`);
  };
  const count = (key: string, otherwise: number | null = null): number =>
    number(key, otherwise, (n) => Number.isSafeInteger(n) && n >= 1, 'a whole number from 1');
  const [width, heads] = [count('embedding_length'), count('attention.head_count')];
  const kvHeads = count('attention.head_count_kv', heads);
  if (width % heads !== 0) refuse(`llama.embedding_length ${width} does not divide into ${heads} heads`);
  if (heads % kvHeads !== 0) refuse(`llama.attention.head_count ${heads} does not divide among ${kvHeads} key heads`);
  const each = width / heads;
  if (each % 2 !== 0)
    refuse(`heads of ${each} numbers cannot be rotated: llama.embedding_length / llama.attention.head_count must be even`);
  for (const key of ['rope.dimension_count', 'attention.key_length', 'attention.value_length'])
    if (count(key, each) !== each)
      refuse(`llama.${key} is ${count(key)}, but heads are ${each} wide; only heads rotated as a whole are supported`);
  if ((metadata.get('llama.expert_count') ?? 0) !== 0) refuse('holds a mixture of experts; only dense models are supported');
  const vocabulary = entries.get('token_embd.weight')?.shape[0] ?? refuse('has no tensor token_embd.weight');
  return llama({
    ...{ vocabulary, width, heads, kvHeads },
    layers: count('block_count'),
    inner: count('feed_forward_length'),
    positions: count('context_length'),
    rope: {
      base: number('rope.freq_base', 10000, (n) => Number.isFinite(n) && n > 0, 'a number above 0'),
      scale: 1 / scalingFactor(metadata, entries, refuse),
    },
    eps: number('attention.layer_norm_rms_epsilon', null, (n) => Number.isFinite(n) && n >= 0, 'a number from 0'),
    tied: !entries.has('output.weight'),
  });
}
const told = (v: MetadataValue | null | undefined): string =>
  typeof v === 'bigint' ? String(v) : (JSON.stringify(v ?? undefined) ?? 'missing');

/** How far positions are stretched: by one factor for all frequencies, which is what our rotation knows. */
function scalingFactor(
  metadata: ReadonlyMap<string, MetadataValue>,
  entries: ReadonlyMap<string, GgufEntry>,
  refuse: (what: string) => never,
): number {
  if (entries.has('rope_freqs.weight'))
    return refuse(
      'scales every frequency of its rotary positions on its own (rope_freqs.weight, as Llama 3.1 does), which is not supported',
    );
  const kind = metadata.get('llama.rope.scaling.type') ?? 'none';
  const factor = metadata.get('llama.rope.scaling.factor') ?? metadata.get('llama.rope.scale_linear') ?? 1;
  if (kind !== 'linear' && kind !== 'none') return refuse(`llama.rope.scaling.type is ${told(kind)}; known are none and linear`);
  if (typeof factor !== 'number' || !(factor >= 0))
    return refuse(`llama.rope.scaling.factor is ${told(factor)}; it must be a number above 0`);
  return factor === 0 ? 1 : factor;
}

/** Every tensor a model of these sizes has, by its name in GGUF. */
function expected(c: DecoderConfig): Map<string, readonly number[]> {
  const kv = (c.width / c.heads) * c.kvHeads;
  const shapes = new Map<string, readonly number[]>([
    ['token_embd.weight', [c.vocabulary, c.width]],
    ['output_norm.weight', [c.width]],
    ...(c.tied ? [] : ([['output.weight', [c.vocabulary, c.width]]] as const)),
  ]);
  for (let k = 0; k < c.layers; k++)
    for (const [name, shape] of [
      ['attn_norm', [c.width]],
      ['attn_q', [c.width, c.width]],
      ['attn_k', [kv, c.width]],
      ['attn_v', [kv, c.width]],
      ['attn_output', [c.width, c.width]],
      ['ffn_norm', [c.width]],
      ['ffn_gate', [c.inner, c.width]],
      ['ffn_up', [c.inner, c.width]],
      ['ffn_down', [c.width, c.inner]],
    ] as const)
      shapes.set(`blk.${k}.${name}.weight`, shape);
  return shapes;
}

/**
 * Rows of the projections of queries and keys in our order. Rotary positions turn pairs of numbers. Files of GGUF's llama keep the two of
 * a pair side by side, (0, 1), (2, 3), …; this decoder pairs number k with number k + D/2.
 */
export function pairsApart(w: Float32Array, rows: number, heads: number): Float32Array {
  const [cols, each] = [w.length / rows, rows / heads];
  const out = new Float32Array(w.length);
  for (let r = 0; r < rows; r++) {
    const [head, k] = [Math.floor(r / each), r % each];
    const from = head * each + (k < each / 2 ? 2 * k : 2 * (k - each / 2) + 1);
    out.set(w.subarray(from * cols, (from + 1) * cols), r * cols);
  }
  return out;
}

/** The model in a GGUF file, frozen, its weights unpacked to float32. Throws where tensors are missing, unknown or of other shapes. */
export async function readGgufModel(file: GgufFile): Promise<{ readonly model: Model; readonly config: DecoderConfig }> {
  const config = ggufConfig(file);
  const shapes = expected(config);
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
  const tensors = new Map<string, Tensor>();
  for (const [name, shape] of shapes) {
    const w = await file.read(name);
    const heads = name.endsWith('.attn_q.weight') ? config.heads : name.endsWith('.attn_k.weight') ? config.kvHeads : null;
    tensors.set(name, leaf(heads === null ? w : pairsApart(w, shape[0]!, heads), shape));
  }
  return { config, model: decoderOf(config, (name) => tensors.get(name)!) };
}

function decoderOf(c: DecoderConfig, of: (name: string) => Tensor): Model {
  const table = weight(of('token_embd.weight'));
  const blocks = Array.from({ length: c.layers }, (_, k): Layer<'block'> => {
    const w = (name: string): Tensor => of(`blk.${k}.${name}.weight`);
    const dense = (name: string): Layer<'linear'> => linear(w(name));
    return preNormBlock({
      norm1: rmsNorm(w('attn_norm'), c.eps),
      attn: selfAttention({ q: dense('attn_q'), k: dense('attn_k'), v: dense('attn_v'), o: dense('attn_output') }, c),
      norm2: rmsNorm(w('ffn_norm'), c.eps),
      mlp: gatedMlp(dense('ffn_gate'), dense('ffn_up'), dense('ffn_down'), c.activation, c.width),
      width: c.width,
    });
  });
  const body = trunk(null, blocks, rmsNorm(of('output_norm.weight'), c.eps), c.width, c.positions);
  return languageModel(embedding(table), body, c.tied ? tiedHead(table) : linear(of('output.weight')));
}
