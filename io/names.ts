// Where each layer of a model is in Hugging Face transformers: trunk.blocks.0.attn.q is model.layers.0.self_attn.q_proj.
import { numberOf } from '../nn/backbone.ts';
import { type AnyLayer, type Field, isLayer, type Kind, type Model } from '../nn/layer.ts';
import { layers } from '../nn/tree.ts';
import { bare } from '../peft/site.ts';

export const ARCHITECTURES = ['gpt2', 'llama', 'bert', 'roberta'] as const;
/** Families of networks by the names of their parts; Qwen2, Mistral and SmolLM have LLaMA's. */
export type Architecture = (typeof ARCHITECTURES)[number];

/** A run of output rows of a larger matrix of theirs. */
export interface Rows {
  readonly from: number;
  readonly to: number;
  readonly of: number;
}
/** One layer, by our path and by their module's name. */
export interface Place {
  readonly path: string; // trunk.blocks.0.attn.q
  readonly module: string; // model.layers.0.self_attn.q_proj
  readonly kind: Kind; // linear, norm or embedding
  readonly layer: AnyLayer; // without what is attached
  /** Theirs is one matrix where ours are three: which rows of it this layer is. Null: the whole. */
  readonly rows: Rows | null;
  /** Their weight is stored [in, out] (GPT-2's Conv1D); ours is [out, in] everywhere. */
  readonly turned: boolean;
}
export interface Names {
  readonly architecture: Architecture;
  /** What precedes names inside the network proper: 'model.', or '' for a model without a head. */
  readonly prefix: string;
  readonly places: readonly Place[];
  readonly byPath: ReadonlyMap<string, Place>;
  /** The name of any path: of blocks and branches too. */
  moduleOf(path: string): string;
}

type Pairs = readonly (readonly [RegExp, string])[];
const renamed = (pairs: Pairs, path: string): string => pairs.reduce((p, [from, to]) => p.replace(from, to), path);

const INSIDE: Readonly<Record<Architecture, Pairs>> = {
  llama: [
    [/^embed\b/, 'embed_tokens'],
    [/^trunk\.blocks/, 'layers'],
    [/^trunk\.norm\b/, 'norm'],
    [/\.norm1\b/, '.input_layernorm'],
    [/\.norm2\b/, '.post_attention_layernorm'],
    [/\.attn\.([qkvo])\b/, '.self_attn.$1_proj'],
    [/\.attn\b/, '.self_attn'],
    [/\.mlp\.(\w+)/, '.mlp.$1_proj'],
  ],
  gpt2: [
    [/^embed\b/, 'wte'],
    [/^trunk\.positions\b/, 'wpe'],
    [/^trunk\.blocks/, 'h'],
    [/^trunk\.norm\b/, 'ln_f'],
    [/\.norm(\d)\b/, '.ln_$1'],
    [/\.attn\.(qkv|[qkv])\b/, '.attn.c_attn'],
    [/\.attn\.o\b/, '.attn.c_proj'],
    [/\.mlp\.up\b/, '.mlp.c_fc'],
    [/\.mlp\.down\b/, '.mlp.c_proj'],
  ],
  bert: [
    [/^embed\b/, 'embeddings.word_embeddings'],
    [/^types\b/, 'embeddings.token_type_embeddings'],
    [/^trunk\.positions\b/, 'embeddings.position_embeddings'],
    [/^trunk\.first\b/, 'embeddings.LayerNorm'],
    [/^trunk\.blocks/, 'encoder.layer'],
    [/\.attn\.q\b/, '.attention.self.query'],
    [/\.attn\.k\b/, '.attention.self.key'],
    [/\.attn\.v\b/, '.attention.self.value'],
    [/\.attn\.o\b/, '.attention.output.dense'],
    [/\.attn\b/, '.attention'],
    [/\.norm1\b/, '.attention.output.LayerNorm'],
    [/\.norm2\b/, '.output.LayerNorm'],
    [/\.mlp\.up\b/, '.intermediate.dense'],
    [/\.mlp\.down\b/, '.output.dense'],
    [/^pooler\b/, 'pooler.dense'],
  ],
  roberta: [],
};
const PREFIX: Readonly<Record<Architecture, string>> = { llama: 'model.', gpt2: 'transformer.', bert: 'bert.', roberta: 'roberta.' };

const at = (model: Model, ...names: string[]): Field | undefined =>
  names.reduce<Field | undefined>((f, n) => (isLayer(f) ? bare(f).fields[n] : undefined), model);

/** What a model's own structure says it is. */
export function architectureOf(model: Model): Architecture {
  const positions = at(model, 'trunk', 'positions');
  if (bare(model).fields.causal === true) return isLayer(positions) ? 'gpt2' : 'llama';
  return isLayer(positions) && (numberOf(bare(positions), 'offset') ?? 0) > 0 ? 'roberta' : 'bert';
}

/** The heads' own names: they stand beside the network proper. */
function headNames(model: Model, architecture: Architecture): Readonly<Record<string, string>> {
  const { fields } = bare(model);
  const perText = 'pool' in fields;
  const decoder = fields.causal === true;
  const vocabulary = rowsOf(at(model, 'embed'));
  if (decoder) {
    if (!perText && rowsOf(fields.head) === vocabulary) return { head: 'lm_head' };
    return { head: perText || architecture === 'llama' ? 'score' : 'classifier' };
  }
  return architecture === 'roberta' && perText ? { head: 'classifier.out_proj', pooler: 'classifier.dense' } : { head: 'classifier' };
}
const rowsOf = (l: Field | undefined): number | null => {
  const w = isLayer(l) ? bare(l).fields.weight : null;
  return isLayer(w) ? outputs(w) : null;
};
const outputs = (w: AnyLayer): number => {
  const { value } = bare(w).fields;
  return typeof value === 'object' && value !== null && 'shape' in value ? ((value.shape as readonly number[])[0] ?? 1) : 0;
};

/**
 * The names that transformers has for a model's layers. `architecture` is read off the model when it is not given: a decoder with learned
 * positions is gpt2, one with rotary positions llama; an encoder whose positions start after some rows is roberta, another bert.
 */
export function namesOf(model: Model, architecture: Architecture = architectureOf(model)): Names {
  const { fields } = bare(model);
  const prefix = 'head' in fields ? PREFIX[architecture] : '';
  const pairs = INSIDE[architecture === 'roberta' ? 'bert' : architecture];
  const heads = headNames(model, architecture);
  const moduleOf = (path: string): string => {
    const [first = ''] = path.split('.');
    const head = Object.hasOwn(heads, first) ? heads[first] : undefined;
    return head === undefined ? prefix + renamed(pairs, path) : head + path.slice(first.length);
  };
  const places: Place[] = [];
  const byPath = new Map<string, Place>();
  for (const { path, layer } of layers(model)) {
    if (byPath.has(path) || (layer.kind !== 'linear' && layer.kind !== 'norm' && layer.kind !== 'embedding')) continue;
    const turned = architecture === 'gpt2' && layer.kind === 'linear' && path.startsWith('trunk.blocks.');
    const place: Place = {
      path,
      module: moduleOf(path),
      kind: layer.kind,
      layer: bare(layer),
      rows: rowsIn(path, layer, architecture),
      turned,
    };
    places.push(place);
    byPath.set(path, place);
  }
  return { architecture, prefix, places, byPath, moduleOf };
}

/** GPT-2's c_attn is q, k and v on top of each other. */
function rowsIn(path: string, layer: AnyLayer, architecture: Architecture): Rows | null {
  const part = /\.attn\.([qkv])$/.exec(path)?.[1];
  if (architecture !== 'gpt2' || part === undefined) return null;
  const n = rowsOf(layer)!;
  const k = 'qkv'.indexOf(part);
  return { from: k * n, to: (k + 1) * n, of: 3 * n };
}
