// The tiny frozen networks of the nn-*.json fixtures, with the names that Hugging Face transformers has for their places.
import { rng } from '../../core/rng.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { decoder, gpt2, llama } from '../../nn/decoder.ts';
import { bert, encoder, roberta } from '../../nn/encoder.ts';
import { freeze } from '../../nn/freeze.ts';
import { classifier, tagger } from '../../nn/heads.ts';
import type { Batch, Model } from '../../nn/layer.ts';
import { mapTensors } from '../../nn/tree.ts';
import { fixture, rows, type Table } from './fixtures.ts';

export interface Network {
  readonly base: Model;
  readonly batch: Batch;
  readonly tokens: number;
  readonly targets: Tensor;
  /** trunk.blocks.0.attn.q → model.layers.0.self_attn.q_proj */
  readonly moduleOf: (path: string) => string;
}
interface Base {
  readonly ids: number[][];
  readonly mask: number[][];
  readonly types?: number[][] | null;
  readonly targets: number[] | number[][];
  readonly weights: Readonly<Record<string, Table>>;
}
const SIZES = { vocabulary: 13, width: 16, layers: 2, heads: 4, inner: 24, positions: 12 };

/** Parts of a path, renamed one after the other. */
const renamed =
  (pairs: readonly (readonly [RegExp, string])[]) =>
  (path: string): string =>
    pairs.reduce((p, [from, to]) => p.replace(from, to), path);
const LLAMA = renamed([
  [/^embed/, 'model.embed_tokens'],
  [/^head/, 'lm_head'],
  [/^trunk\.blocks/, 'model.layers'],
  [/^trunk\.norm/, 'model.norm'],
  [/\.norm1/, '.input_layernorm'],
  [/\.norm2/, '.post_attention_layernorm'],
  [/attn\.(\w)\b/, 'self_attn.$1_proj'],
  [/mlp\.(\w+)/, 'mlp.$1_proj'],
]);
const GPT2 = renamed([
  [/^(head|embed)/, 'transformer.wte'],
  [/^trunk\.positions/, 'transformer.wpe'],
  [/^trunk\.blocks/, 'transformer.h'],
  [/^trunk\.norm/, 'transformer.ln_f'],
  [/\.norm(\d)/, '.ln_$1'],
  [/\.qkv/, '.c_attn'],
  [/attn\.o/, 'attn.c_proj'],
  [/mlp\.up/, 'mlp.c_fc'],
  [/mlp\.down/, 'mlp.c_proj'],
]);
const BERT = renamed([
  [/^embed/, 'bert.embeddings.word_embeddings'],
  [/^types/, 'bert.embeddings.token_type_embeddings'],
  [/^trunk\.positions/, 'bert.embeddings.position_embeddings'],
  [/^trunk\.first/, 'bert.embeddings.LayerNorm'],
  [/^trunk\.blocks/, 'bert.encoder.layer'],
  [/attn\.q/, 'attention.self.query'],
  [/attn\.k/, 'attention.self.key'],
  [/attn\.v/, 'attention.self.value'],
  [/attn\.o/, 'attention.output.dense'],
  [/\.norm1/, '.attention.output.LayerNorm'],
  [/\.norm2/, '.output.LayerNorm'],
  [/mlp\.up/, 'intermediate.dense'],
  [/mlp\.down/, 'output.dense'],
  [/^pooler/, 'bert.pooler.dense'],
  [/^head/, 'classifier'],
]);

/** The numbers of [m, n] from those of [n, m]. */
const turned = ({ data, shape: [n, m] }: Table): number[] => data.map((_, i) => data[(i % n!) * m! + Math.floor(i / n!)]!);

function network(name: string, model: Model, moduleOf: (path: string) => string, isTurned: (path: string) => boolean): Network {
  const f = fixture<Base>(`nn-${name}`);
  const made = new Map<string, Tensor>(); // a tied head is the embedding
  const base = mapTensors(model, (old, path) => {
    const table = f.weights[moduleOf(path)];
    if (table === undefined) throw new Error(`nn-${name} has no ${moduleOf(path)} for ${path}`);
    const now = made.get(moduleOf(path)) ?? leaf(Float32Array.from(isTurned(path) ? turned(table) : table.data), old.shape);
    made.set(moduleOf(path), now);
    return now;
  });
  const { ids, mask, types, targets } = f;
  return {
    base: freeze(base),
    batch: { ids: rows(ids), keyMask: rows(mask), types: types == null ? null : rows(types) },
    tokens: ids[0]!.length,
    targets: Array.isArray(targets[0]) ? rows(targets as number[][]) : leaf(targets as number[], [targets.length]),
    moduleOf,
  };
}

export const networks = {
  llama: network('llama', decoder(llama({ ...SIZES, kvHeads: 2 }), rng(0)), LLAMA, () => false),
  gpt2: network('gpt2', decoder(gpt2({ ...SIZES, fusedQkv: true }), rng(0)), GPT2, (p) => /\.(qkv|o|up|down)\.weight$/.test(p)),
  roberta: network(
    'roberta',
    tagger(encoder(roberta(SIZES), rng(0)), { classes: 3 }, rng(0)),
    (p) => BERT(p).replace(/^bert\./, 'roberta.'),
    () => false,
  ),
  bert: network('bert', classifier(encoder(bert(SIZES), rng(0)), { classes: 3 }, rng(0)), BERT, () => false),
} as const satisfies Record<string, Network>;
