// GPT-2, LLaMA, BERT and RoBERTa against Hugging Face transformers: the same weights give the same logits and gradients.
import { describe, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { crossEntropy } from '../../core/ops/fused.ts';
import { rng } from '../../core/rng.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { backboneOf } from '../../nn/backbone.ts';
import { context } from '../../nn/context.ts';
import { decoder, gpt2, llama } from '../../nn/decoder.ts';
import { bert, encoder, encoderModel, roberta } from '../../nn/encoder.ts';
import { decoding } from '../../nn/generate.ts';
import { classifier, tagger } from '../../nn/heads.ts';
import type { Model } from '../../nn/layer.ts';
import { mapTensors, params } from '../../nn/tree.ts';
import { fixture, off, rows, type Table } from './fixtures.ts';

interface Fixture {
  readonly config: { readonly layers: number; readonly heads: number; readonly kvHeads?: number };
  readonly ids: number[][];
  readonly mask: number[][];
  readonly types?: number[][] | null;
  readonly targets: number[] | number[][];
  readonly weights: Readonly<Record<string, Table>>;
  readonly hidden?: Table;
  readonly logits: Table;
  readonly loss: number;
  readonly grads: Readonly<Record<string, Table>>;
}
/** Our path → the fixture's name, and whether it is stored as [in, out]. */
type Names = (path: string) => { readonly name: string; readonly turned?: boolean };

const replaced = (path: string, pairs: readonly (readonly [string, string])[]): string =>
  pairs.reduce((p, [from, to]) => p.replace(from, to), path);

const GPT2: Names = (path) => ({
  name: replaced(path, [
    ['embed.', 'transformer.wte.'],
    ['trunk.positions.', 'transformer.wpe.'],
    ['trunk.blocks.', 'transformer.h.'],
    ['trunk.norm.', 'transformer.ln_f.'],
    ['.norm1.', '.ln_1.'],
    ['.norm2.', '.ln_2.'],
    ['.qkv.', '.c_attn.'],
    ['attn.o.', 'attn.c_proj.'],
    ['mlp.up.', 'mlp.c_fc.'],
    ['mlp.down.', 'mlp.c_proj.'],
  ]),
  turned: /\.(qkv|o|up|down)\.weight$/.test(path), // GPT-2's "Conv1D"
});
const LLAMA: Names = (path) => ({
  name: replaced(path, [
    ['embed.', 'model.embed_tokens.'],
    ['head.', 'lm_head.'],
    ['trunk.blocks.', 'model.layers.'],
    ['trunk.norm.', 'model.norm.'],
    ['.norm1.', '.input_layernorm.'],
    ['.norm2.', '.post_attention_layernorm.'],
    ['attn.q.', 'self_attn.q_proj.'],
    ['attn.k.', 'self_attn.k_proj.'],
    ['attn.v.', 'self_attn.v_proj.'],
    ['attn.o.', 'self_attn.o_proj.'],
    ['mlp.gate.', 'mlp.gate_proj.'],
    ['mlp.up.', 'mlp.up_proj.'],
    ['mlp.down.', 'mlp.down_proj.'],
  ]),
});
const BERT =
  (prefix: string): Names =>
  (path) => ({
    name: replaced(path, [
      ['embed.', `${prefix}.embeddings.word_embeddings.`],
      ['types.', `${prefix}.embeddings.token_type_embeddings.`],
      ['trunk.positions.', `${prefix}.embeddings.position_embeddings.`],
      ['trunk.first.', `${prefix}.embeddings.LayerNorm.`],
      ['trunk.blocks.', `${prefix}.encoder.layer.`],
      ['attn.q.', 'attention.self.query.'],
      ['attn.k.', 'attention.self.key.'],
      ['attn.v.', 'attention.self.value.'],
      ['attn.o.', 'attention.output.dense.'],
      ['.norm1.', '.attention.output.LayerNorm.'],
      ['.norm2.', '.output.LayerNorm.'],
      ['mlp.up.', 'intermediate.dense.'],
      ['mlp.down.', 'output.dense.'],
      ['pooler.', `${prefix}.pooler.dense.`],
      ['head.', 'classifier.'],
    ]),
  });

/** The model with the fixture's weights as parameters; all of them are used, and every place gets one. */
function loaded(model: Model, f: Fixture, names: Names): Model {
  const made = new Map<string, Tensor>();
  const tied = !('lm_head.weight' in f.weights) && [...params(model).values()].every((p) => p !== 'head.weight');
  const full = mapTensors(model, (old, path) => {
    const { name, turned = false } = names(tied && path === 'head.weight' ? 'embed.weight' : path);
    const table = f.weights[name];
    if (table === undefined) throw new Error(`the fixture has no ${name} for ${path}`);
    const now = made.get(name) ?? param(Float32Array.from(turned ? transposed(table) : table.data), old.shape);
    made.set(name, now);
    return now;
  });
  expect([...made.keys()].sort()).toEqual(Object.keys(f.weights).sort());
  return full;
}
/** [n, m] → the numbers of [m, n]. */
const transposed = ({ data, shape: [n, m] }: Table): number[] => data.map((_, i) => data[(i % n!) * m! + Math.floor(i / n!)]!);

const TOLERANCE = 1e-5;

async function agrees(model: Model, f: Fixture, names: Names): Promise<void> {
  const engine = float64();
  const tokens = f.ids[0]!.length;
  const batch = { ids: rows(f.ids), keyMask: rows(f.mask), types: f.types == null ? null : rows(f.types) };
  const logits = model(batch, context(tokens));
  const targets = Array.isArray(f.targets[0]) ? rows(f.targets as number[][]) : leaf(f.targets as number[], [f.targets.length]);
  const loss = crossEntropy(logits, targets);
  const got = await engine.read(logits);
  expect(off(got, f.logits)).toBeLessThan(TOLERANCE);
  expect(Math.abs((await engine.item(loss)) - f.loss)).toBeLessThan(TOLERANCE);
  const wanted = Object.entries(f.grads);
  expect(wanted.length).toBeGreaterThan(3);
  for (const [name, g] of wanted) {
    const [place] = [...params(model)].filter(([, path]) => names(path).name === name);
    if (place === undefined) throw new Error(`no parameter for ${name}`);
    const [p, path] = place;
    const ours = await engine.read(grad(loss, [stateFor(model, path)])[0]!);
    const same = names(path).turned ? { shape: p.shape, data: transposed(g) } : g;
    expect(off(ours, same), name).toBeLessThan(TOLERANCE);
    expect(Math.max(...g.data.map(Math.abs)), `${name} has a gradient to compare`).toBeGreaterThan(1e-3);
  }
}
function stateFor(model: Model, path: string): Tensor {
  const found: Tensor[] = [];
  mapTensors(model, (t, p) => {
    if (p === path) found.push(t);
    return t;
  });
  return found[0]!;
}

const sizes = (f: Fixture) => ({ vocabulary: 13, width: 16, inner: 24, positions: 12, ...f.config });

describe('Hugging Face transformers', () => {
  const g = fixture<Fixture>('nn-gpt2');
  const l = fixture<Fixture>('nn-llama');
  const b = fixture<Fixture>('nn-bert');
  const r = fixture<Fixture>('nn-roberta');
  const gpt = loaded(decoder(gpt2({ ...sizes(g), fusedQkv: true }), rng(0)), g, GPT2);
  const llm = loaded(decoder(llama(sizes(l)), rng(0)), l, LLAMA);
  const classify = loaded(classifier(encoder(bert(sizes(b)), rng(0)), { classes: 3 }, rng(0)), b, BERT('bert'));
  const tag = loaded(tagger(encoder(roberta(sizes(r)), rng(0)), { classes: 3 }, rng(0)), r, BERT('roberta'));

  test('GPT-2 with a padded row', () => agrees(gpt, g, GPT2));
  test('LLaMA with grouped-query attention and a padded row', () => agrees(llm, l, LLAMA));
  test('BERT for sequence classification: segments, padding, pooler', () => agrees(classify, b, BERT('bert')));
  test('RoBERTa for token classification: positions from padding id + 1, padding at one of its own', () => agrees(tag, r, BERT('roberta')));

  test('hidden states of both encoders', async () => {
    for (const [model, f] of [
      [classify, b],
      [tag, r],
    ] as const) {
      const base = backboneOf(model);
      const bare = encoderModel(base.embed, base.types, base.trunk, base.padding);
      const h = bare({ ids: rows(f.ids), keyMask: rows(f.mask), types: f.types == null ? null : rows(f.types) }, context(6));
      expect(off(await float64().read(h), f.hidden!)).toBeLessThan(TOLERANCE);
    }
  });

  test('decoding against a cache gives their logits, row by row and token by token', async () => {
    for (const [model, f] of [
      [gpt, g],
      [llm, l],
    ] as const) {
      const d = await decoding(model, [f.ids[0]!.slice(0, 3), f.ids[1]!.slice(0, 2)], { engine: float64(), tokens: 3 });
      for (let n = 0; ; n++) {
        const wanted = [3 + n, 6 + 2 + n].flatMap((end) => f.logits.data.slice((end - 1) * 13, end * 13));
        expect(off(d.logits, { shape: [2, 13], data: wanted })).toBeLessThan(TOLERANCE);
        if (n === 2) break;
        await d.advance([f.ids[0]![3 + n]!, f.ids[1]![2 + n]!]);
      }
      d.close();
    }
  });
});
