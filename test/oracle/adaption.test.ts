// LLaMA-Adapter against Hugging Face PEFT's AdaptionPrompt, on LLaMA (grouped keys, rotary positions) and GPT-2 (fused projection).
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { crossEntropy } from '../../core/ops/fused.ts';
import { rng } from '../../core/rng.ts';
import { leaf, stateOf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { decoder, gpt2, llama } from '../../nn/decoder.ts';
import { freeze, withValues } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { mapTensors, trainable } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';
import { llamaAdapter } from '../../peft/additive/llamaAdapter.ts';
import { fromBlock } from '../../peft/site.ts';
import { fixture, off, rows, type Table } from './fixtures.ts';

interface Case {
  readonly tensors: Readonly<Record<string, Table>>;
  readonly logits: Table;
  readonly loss: number;
  readonly grads: Readonly<Record<string, Table>>;
  readonly losses: readonly number[];
  readonly after: Table;
}
interface Base {
  readonly ids: number[][];
  readonly mask: number[][];
  readonly targets: number[][];
  readonly weights: Readonly<Record<string, Table>>;
}
const hf = fixture<{ readonly llama: Case; readonly gpt2: Case }>('adaption');
const TOLERANCE = 1e-5; // the fixtures are rounded to float32
const engine = float64();
const sizes = { vocabulary: 13, width: 16, layers: 2, heads: 4, inner: 24, positions: 12 };

const rename = (path: string, pairs: readonly (readonly [string, string])[]): string =>
  pairs.reduce((p, [from, to]) => p.replace(from, to), path);
const llamaName = (path: string): string =>
  rename(path, [
    ['embed.', 'model.embed_tokens.'],
    ['head.', 'lm_head.'],
    ['trunk.blocks.', 'model.layers.'],
    ['trunk.norm.', 'model.norm.'],
    ['.norm1.', '.input_layernorm.'],
    ['.norm2.', '.post_attention_layernorm.'],
  ])
    .replace(/attn\.(\w)\./, 'self_attn.$1_proj.')
    .replace(/mlp\.(\w+)\./, 'mlp.$1_proj.');
const gpt2Name = (path: string): string =>
  rename(path, [
    ['head.', 'transformer.wte.'],
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
  ]);
/** A frozen model with the fixture's weights; `turned` picks those stored as [in, out]. */
function loaded(model: Model, { weights }: Base, name: (path: string) => string, turned: (path: string) => boolean): Model {
  const made = new Map<string, Tensor>(); // a tied head is the embedding
  return freeze(
    mapTensors(model, (old, path) => {
      const { data, shape } = weights[name(path)]!;
      const [n, m] = shape as readonly [number, number];
      const numbers = turned(path) ? data.map((_, i) => data[(i % n) * m + Math.floor(i / n)]!) : data;
      const now = made.get(name(path)) ?? leaf(Float32Array.from(numbers), old.shape);
      made.set(name(path), now);
      return now;
    }),
  );
}

const networks = {
  llama: () => {
    const base = fixture<Base>('nn-llama');
    return { base, model: loaded(decoder(llama({ ...sizes, kvHeads: 2 }), rng(1)), base, llamaName, () => false), project: true };
  },
  gpt2: () => {
    const base = fixture<Base>('nn-gpt2');
    const model = loaded(decoder(gpt2({ ...sizes, fusedQkv: true }), rng(1)), base, gpt2Name, (p) => /\.(qkv|o|up|down)\.weight$/.test(p));
    return { base, model, project: false };
  },
};

test.each(['llama', 'gpt2'] as const)('%s: logits, gradients and three AdamW steps are those of PEFT', async (name) => {
  const f = hf[name];
  const { base, model: frozen, project } = networks[name]();
  const fresh = llamaAdapter({ length: 3, gate: 'one', project, where: fromBlock(1, 'attn') })(frozen);
  const own = (path: string): string =>
    Object.keys(f.tensors).find((n) => n.endsWith(path.endsWith('.P') ? 'adaption_prompt' : 'adaption_gate'))!;
  const model = withValues(fresh, new Map([...trainable(fresh)].map(([p, path]) => [p, Float32Array.from(f.tensors[own(path)]!.data)])));
  const batch = { ids: rows(base.ids), keyMask: rows(base.mask) };
  const answer = (m: Model): Tensor => m(batch, context(base.ids[0]!.length));
  const loss = (m: Model): Tensor => crossEntropy(answer(m), rows(base.targets));
  const all = [...trainable(model)];
  expect(all.length).toBe(Object.keys(f.tensors).length);
  const grads = grad(
    loss(model),
    all.map(([p]) => stateOf(p)),
  );
  const outputs: Record<string, Tensor> = {
    logits: answer(model),
    loss: loss(model),
    ...Object.fromEntries(grads.map((g, k) => [all[k]![1], g])),
  };
  const got = await (await engine.compile(engine.store(), { outputs })).run();
  expect(off(got.logits!, f.logits)).toBeLessThan(TOLERANCE);
  expect(Math.abs(got.loss![0]! - f.loss)).toBeLessThan(TOLERANCE);
  for (const [, path] of all) expect(off(got[path]!, f.grads[own(path)]!), path).toBeLessThan(TOLERANCE);

  await using t = await trainer(model, { engine, loss, optimizer: adamw({ lr: 0.01, weightDecay: 0 }) });
  const losses: number[] = [];
  for (let k = 0; k < 3; k++) losses.push((await t.step({})).loss);
  expect(off(losses, { shape: [3], data: f.losses })).toBeLessThan(TOLERANCE);
  expect(off(await engine.read(answer(await t.model())), f.after)).toBeLessThan(TOLERANCE);
});
