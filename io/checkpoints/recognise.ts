// What a model would be called in a config.json: its architecture and sizes, read off its own layers.
import { show } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Rope } from '../../nn/attention.ts';
import type { DecoderConfig } from '../../nn/decoder.ts';
import type { EncoderConfig } from '../../nn/encoder.ts';
import { type AnyLayer, type Field, isLayer, isRecord, type Model } from '../../nn/layer.ts';
import type { Activation } from '../../nn/mlp.ts';
import { layers, tensors } from '../../nn/tree.ts';
import type { CheckpointConfig, DecoderCheckpoint, EncoderCheckpoint } from './config.ts';
import { skeleton } from './skeleton.ts';

const refuse = (what: string): never => {
  throw new Error(`saveCheckpoint: ${what}`);
};
const part = (l: Field | undefined, ...names: string[]): AnyLayer => {
  const found = names.reduce<Field | undefined>((f, n) => (isLayer(f) ? f.fields[n] : undefined), l);
  return isLayer(found)
    ? found
    : refuse(
        `the model shows no ${names.join('.')}; what is saved is a decoder or encoder of this library, perhaps with a classifier's head`,
      );
};
const has = (l: AnyLayer, name: string): boolean => isLayer(l.fields[name]);
/** The shape of a layer's weight. */
const shapeOf = (l: AnyLayer): readonly [number, number] => (part(l, 'weight').fields.value as Tensor).shape as readonly [number, number];

/** One value for all layers that have it; transformers has one field for them. */
function common(model: Model, name: string, kind: AnyLayer['kind']): Field {
  const found = new Map<string, { readonly value: Field; readonly path: string }>();
  for (const { path, layer } of layers(model)) {
    const key = JSON.stringify(layer.fields[name]);
    if (layer.kind === kind && name in layer.fields && !found.has(key)) found.set(key, { value: layer.fields[name]!, path });
  }
  const [first, second] = [...found.values()];
  if (second !== undefined)
    refuse(`${first!.path} and ${second.path} differ in ${name} (${[...found.keys()].join(', ')}); a config.json has one for all layers`);
  return first?.value ?? null;
}

/** The configuration under which `skeleton` makes this network. Throws where there is none, saying what is in the way. */
export function recognise(model: Model): CheckpointConfig {
  const body = part(model, 'trunk');
  const blocks = body.fields.blocks as readonly Field[];
  if (!Array.isArray(blocks) || blocks.length === 0) refuse('the model has no blocks');
  const block = blocks[0] as AnyLayer;
  const config = model.fields.causal === true ? decoder(model, body, block, blocks.length) : encoder(model, body, block, blocks.length);
  sameTree(model, skeleton(config), config.architecture);
  return config;
}

function shared(
  model: Model,
  body: AnyLayer,
  block: AnyLayer,
  count: number,
): Pick<DecoderConfig, 'vocabulary' | 'width' | 'layers' | 'heads' | 'kvHeads' | 'inner' | 'eps' | 'activation'> {
  const attend = part(block, 'attn', 'attend').fields as { readonly heads: number; readonly kvHeads: number };
  return {
    vocabulary: shapeOf(part(model, 'embed'))[0],
    width: body.fields.width as number,
    layers: count,
    heads: attend.heads,
    kvHeads: attend.kvHeads,
    inner: shapeOf(part(block, 'mlp', 'up'))[0],
    eps: common(model, 'eps', 'norm') as number,
    activation: common(model, 'activation', 'branch') as Activation,
  };
}
function headOf(model: Model): { readonly head: 'sequence' | 'token' | null; readonly classes: number } {
  const { pool, pooler } = model.fields;
  if (!isLayer(model.fields.head)) return { head: null, classes: 0 };
  const classes = shapeOf(part(model, 'head'))[0];
  if (pool === undefined) return { head: 'token', classes };
  const wanted = model.fields.causal === true ? 'last' : 'first';
  if (pool !== wanted || (wanted === 'first') !== isLayer(pooler))
    refuse(
      `the classifier takes ${String(pool)} with${isLayer(pooler) ? '' : 'out'} a pooler; transformers has '${wanted}' with${wanted === 'first' ? '' : 'out'} one. Save backboneOf(model)'s network, and the head beside it`,
    );
  return { head: 'sequence', classes };
}

function decoder(model: Model, body: AnyLayer, block: AnyLayer, count: number): DecoderCheckpoint {
  const rope = common(model, 'rope', 'branch');
  const attn = part(block, 'attn');
  const fused = has(attn, 'qkv');
  const bias = {
    qkv: has(part(attn, fused ? 'qkv' : 'q'), 'bias'),
    o: has(part(attn, 'o'), 'bias'),
    mlp: has(part(block, 'mlp', 'up'), 'bias'),
  };
  const { head, classes } = headOf(model);
  const table = part(model, 'embed', 'weight');
  const language = head === 'token' && classes === shapeOf(part(model, 'embed'))[0]; // per token, over the vocabulary
  const sizes: DecoderConfig = {
    ...shared(model, body, block, count),
    positions: body.fields.longest as number,
    rope: isRecord(rope) ? (rope as Rope) : null,
    norm: common(model, 'form', 'norm') as DecoderConfig['norm'],
    gated: has(part(block, 'mlp'), 'gate'),
    bias,
    fusedQkv: fused,
    tied: language && part(model, 'head', 'weight').fields.value === table.fields.value,
  };
  const architecture = architectureOf(sizes, bias);
  return { architecture, sizes, head: language ? 'language' : (head ?? refuse('a decoder needs a head')), classes };
}

function architectureOf(
  c: DecoderConfig,
  bias: { readonly qkv: boolean; readonly o: boolean; readonly mlp: boolean },
): DecoderCheckpoint['architecture'] {
  const all = bias.qkv && bias.o && bias.mlp;
  if (c.rope === null && c.norm === 'layer' && !c.gated && all && c.kvHeads === c.heads) return 'gpt2';
  if (c.rope !== null && c.norm === 'rms' && c.gated && !c.fusedQkv) {
    if (bias.qkv === bias.o) return 'llama';
    if (bias.qkv && !bias.mlp) return 'qwen2';
  }
  return refuse(
    `no architecture of transformers that this library writes has ${c.rope === null ? 'learned' : 'rotary'} positions, ${c.norm} norms, a ${c.gated ? 'gated' : 'plain'} feed-forward branch, ${c.kvHeads} key heads of ${c.heads} and these biases together (GPT-2: learned, layer, plain, all biases; LLaMA and Qwen2: rotary, rms, gated)`,
  );
}

function encoder(model: Model, body: AnyLayer, block: AnyLayer, count: number): EncoderCheckpoint {
  const { kvHeads: _, ...sizes } = shared(model, body, block, count);
  const { head, classes } = headOf(model);
  const positionOffset = part(body, 'positions').fields.offset as number;
  const padding = typeof model.fields.padding === 'number' ? model.fields.padding : null;
  const types = isLayer(model.fields.types) ? shapeOf(part(model, 'types'))[0] : 0;
  if ((padding === null ? 0 : padding + 1) !== positionOffset)
    refuse(
      `positions start at row ${positionOffset} and padding is ${padding}; in RoBERTa they start one after the padding id, in BERT at 0`,
    );
  if (types === 0) refuse('BERT and RoBERTa both have a table of token types; this model has none');
  const config: EncoderConfig = { ...sizes, positions: body.fields.longest as number, positionOffset, padding, types };
  return { architecture: padding === null ? 'bert' : 'roberta', sizes: config, head: head ?? 'none', classes };
}

/** Every tensor must be where the configuration says one is, of that shape. */
function sameTree(model: Model, wanted: Model, name: string): void {
  const shapes = (m: Model): Map<string, string> => new Map([...tensors(m)].map(({ path, tensor }) => [path, show(tensor.shape)]));
  const [own, their] = [shapes(model), shapes(wanted)];
  const wrong = [
    ...[...own].filter(([p]) => !their.has(p)).map(([p]) => `${p} has no place in ${name}`),
    ...[...their].filter(([p]) => !own.has(p)).map(([p]) => `${p} is missing`),
    ...[...own].filter(([p, s]) => (their.get(p) ?? s) !== s).map(([p, s]) => `${p} is ${s}, all blocks alike it would be ${their.get(p)}`),
  ];
  if (wrong.length > 0) refuse(`this model cannot be written as ${name}:\n  ${wrong.slice(0, 8).join('\n  ')}`);
}
