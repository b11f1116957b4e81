// Pretrained encoders on disk: a folder with config.json, a safetensors file and tokenizer.json becomes a frozen model that
// answers hidden states. BERT and RoBERTa, with the tensor names of Hugging Face checkpoints.
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { same, show } from '../core/shape.ts';
import { leaf, type Tensor } from '../core/tensor.ts';
import { selfAttention } from '../nn/attention.ts';
import { postNormBlock } from '../nn/block.ts';
import { trunk } from '../nn/decoder.ts';
import { embedding } from '../nn/embedding.ts';
import { bert, type EncoderConfig, encoderModel, roberta } from '../nn/encoder.ts';
import type { Layer, Model } from '../nn/layer.ts';
import { linear, weight } from '../nn/linear.ts';
import { type Activation, mlp } from '../nn/mlp.ts';
import { layerNorm } from '../nn/norm.ts';
import { isJsonObject, type Json, parseJson } from './adapterJson.ts';
import { openSafetensors, some, type TensorFile } from './files.ts';

/** Tensors that checkpoints carry and hidden states do not need: counters of positions, and heads of other tasks. */
const UNUSED = /^(embeddings\.(position_ids|token_type_ids)|pooler\.|cls\.|classifier\.|lm_head\.|qa_outputs\.)/;
const ACTIVATIONS: Readonly<Record<string, Activation>> = {
  gelu: 'gelu',
  gelu_new: 'geluTanh',
  gelu_pytorch_tanh: 'geluTanh',
  relu: 'relu',
  silu: 'silu',
};

/** The text of a file of a model folder; says what a model folder holds where there is none. */
export async function fileOf(folder: string, name: string): Promise<string> {
  const path = join(folder, name);
  try {
    return await readFile(path, 'utf8');
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code !== 'ENOENT') throw e;
    throw new Error(`${path}: no such file; a model folder holds config.json, tokenizer.json and one .safetensors file`);
  }
}

/** The sizes in a checkpoint's config.json, every one checked. */
export function parseBertConfig(text: string, file: string): EncoderConfig {
  const refuse = (what: string): never => {
    throw new Error(`${file}: ${what}`);
  };
  const json = parseJson(text);
  if (!isJsonObject(json)) return refuse('is not a JSON object');
  const count = (name: string, otherwise?: number): number => {
    const v: Json | undefined = json[name] ?? otherwise;
    return typeof v === 'number' && Number.isInteger(v) && v >= 0
      ? v
      : refuse(`${name} is ${JSON.stringify(v) ?? 'missing'}; it must be a whole number`);
  };
  const kind = json.model_type;
  if (kind !== 'bert' && kind !== 'roberta' && kind !== 'xlm-roberta')
    return refuse(`model_type is ${JSON.stringify(kind) ?? 'missing'}; this loader knows bert, roberta and xlm-roberta`);
  const positions = json.position_embedding_type ?? 'absolute';
  if (positions !== 'absolute')
    return refuse(`position_embedding_type is ${JSON.stringify(positions)}; only absolute positions are supported`);
  const act = json.hidden_act;
  const activation = typeof act === 'string' && Object.hasOwn(ACTIVATIONS, act) ? ACTIVATIONS[act]! : null;
  if (activation === null)
    return refuse(`hidden_act is ${JSON.stringify(act) ?? 'missing'}; known are ${Object.keys(ACTIVATIONS).join(', ')}`);
  const [width, heads] = [count('hidden_size'), count('num_attention_heads')];
  if (heads === 0 || width % heads !== 0) return refuse(`hidden_size ${width} does not divide into num_attention_heads ${heads}`);
  const eps = json.layer_norm_eps ?? 1e-12;
  if (typeof eps !== 'number' || !(eps >= 0)) return refuse(`layer_norm_eps is ${JSON.stringify(eps)}; it must be a number from 0`);
  const positionOffset = kind === 'bert' ? 0 : count('pad_token_id', 1) + 1;
  const sizes = {
    vocabulary: count('vocab_size'),
    width,
    heads,
    eps,
    activation,
    layers: count('num_hidden_layers'),
    inner: count('intermediate_size'),
    types: count('type_vocab_size', 0),
    positions: count('max_position_embeddings') - positionOffset,
  };
  return kind === 'bert' ? bert(sizes) : { ...roberta(sizes), positionOffset, padding: positionOffset - 1 };
}

/** The sizes a model folder says its model has. */
export const readBertConfig = async (folder: string): Promise<EncoderConfig> =>
  parseBertConfig(await fileOf(folder, 'config.json'), join(folder, 'config.json'));

/**
 * The pretrained encoder in a folder, frozen: ids [B, T] → hidden states [B, T, D]. Halves are widened to float32. The pooler and
 * any task's head are left aside. Throws when the weights and config.json disagree: every missing, unknown or misshapen tensor by name.
 */
export async function readBert(folder: string): Promise<Model> {
  const c = await readBertConfig(folder);
  await using file = await openSafetensors(join(folder, await weightsOf(folder)));
  return encoderOf(c, await load(file, shapesOf(c)));
}

async function weightsOf(folder: string): Promise<string> {
  const all = (await readdir(folder)).filter((f) => f.endsWith('.safetensors'));
  const chosen = all.includes('model.safetensors') ? 'model.safetensors' : all[0];
  if (chosen === undefined)
    throw new Error(
      `${folder}: holds no .safetensors file. A checkpoint in another format (pytorch_model.bin) has to be saved as safetensors first`,
    );
  if (all.length > 1 && chosen !== 'model.safetensors')
    throw new Error(`${folder}: holds several .safetensors files (${some(all)}); keep one, or name the one to load model.safetensors`);
  return chosen;
}

/** What a checkpoint of these sizes must hold, by its own names. */
function shapesOf(c: EncoderConfig): Map<string, readonly number[]> {
  const shapes = new Map<string, readonly number[]>();
  const dense = (name: string, out: number, into: number): void => {
    shapes.set(`${name}.weight`, [out, into]).set(`${name}.bias`, [out]);
  };
  const norm = (name: string): void => {
    shapes.set(`${name}.weight`, [c.width]).set(`${name}.bias`, [c.width]);
  };
  shapes.set('embeddings.word_embeddings.weight', [c.vocabulary, c.width]);
  shapes.set('embeddings.position_embeddings.weight', [c.positions + c.positionOffset, c.width]);
  if (c.types > 0) shapes.set('embeddings.token_type_embeddings.weight', [c.types, c.width]);
  norm('embeddings.LayerNorm');
  for (let k = 0; k < c.layers; k++) {
    const at = `encoder.layer.${k}`;
    for (const p of ['self.query', 'self.key', 'self.value', 'output.dense']) dense(`${at}.attention.${p}`, c.width, c.width);
    norm(`${at}.attention.output.LayerNorm`);
    dense(`${at}.intermediate.dense`, c.inner, c.width);
    dense(`${at}.output.dense`, c.width, c.inner);
    norm(`${at}.output.LayerNorm`);
  }
  return shapes;
}

/** Old checkpoints call a norm's gain and shift gamma and beta; those with a head put the encoder under `bert.` or `roberta.`. */
const plainName = (name: string): string =>
  name
    .replace(/^(bert|roberta)\./, '')
    .replace(/LayerNorm\.gamma$/, 'LayerNorm.weight')
    .replace(/LayerNorm\.beta$/, 'LayerNorm.bias');

async function load(file: TensorFile, shapes: ReadonlyMap<string, readonly number[]>): Promise<(name: string) => Tensor> {
  const entries = new Map([...file.entries.values()].map((e) => [plainName(e.name), e]));
  const missing = [...shapes.keys()].filter((n) => !entries.has(n));
  const unknown = [...entries.keys()].filter((n) => !shapes.has(n) && !UNUSED.test(n));
  const wrong: string[] = [];
  if (missing.length > 0) wrong.push(`missing: ${some(missing)}`);
  if (unknown.length > 0) wrong.push(`unknown: ${some(unknown)}`);
  for (const [name, shape] of shapes) {
    const e = entries.get(name);
    if (e === undefined) continue;
    if (!same(e.shape, shape)) wrong.push(`${name} is ${show(e.shape)}, by config.json it should be ${show(shape)}`);
    else if (!e.dtype.includes('F')) wrong.push(`${name} holds ${e.dtype}, not floating-point numbers`);
  }
  if (wrong.length > 0)
    throw new Error(`${file.path}: these are not the weights config.json describes:\n  ${wrong.slice(0, 12).join('\n  ')}`);
  const tensors = new Map<string, Tensor>();
  for (const [name, shape] of shapes) tensors.set(name, leaf(await file.read(entries.get(name)!.name), shape));
  return (name) => tensors.get(name)!;
}

function encoderOf(c: EncoderConfig, of: (name: string) => Tensor): Model {
  const dense = (name: string): Layer<'linear'> => linear(of(`${name}.weight`), of(`${name}.bias`));
  const norm = (name: string): Layer<'norm'> => layerNorm(of(`${name}.weight`), of(`${name}.bias`), c.eps);
  const table = (name: string, offset = 0): Layer<'embedding'> => embedding(weight(of(`embeddings.${name}_embeddings.weight`)), offset);
  const blocks = Array.from({ length: c.layers }, (_, k) => {
    const at = `encoder.layer.${k}`;
    const [q, key, v] = [dense(`${at}.attention.self.query`), dense(`${at}.attention.self.key`), dense(`${at}.attention.self.value`)];
    return postNormBlock({
      norm1: norm(`${at}.attention.output.LayerNorm`),
      attn: selfAttention({ q, k: key, v, o: dense(`${at}.attention.output.dense`) }, { ...c, kvHeads: c.heads, rope: null }),
      norm2: norm(`${at}.output.LayerNorm`),
      mlp: mlp(dense(`${at}.intermediate.dense`), dense(`${at}.output.dense`), c.activation, c.width),
      width: c.width,
    });
  });
  const body = trunk(table('position', c.positionOffset), blocks, null, c.width, c.positions, norm('embeddings.LayerNorm'));
  return encoderModel(table('word'), c.types === 0 ? null : table('token_type'), body, c.padding);
}
