// LLaMA-Adapter against Hugging Face PEFT's AdaptionPrompt, on LLaMA (grouped keys, rotary positions) and GPT-2 (fused projection).
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { crossEntropy } from '../../core/ops/fused.ts';
import { stateOf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { withValues } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { trainable } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';
import { llamaAdapter } from '../../peft/additive/llamaAdapter.ts';
import { fromBlock } from '../../peft/site.ts';
import { fixture, off, type Table } from './fixtures.ts';
import { networks } from './networks.ts';

interface Case {
  readonly tensors: Readonly<Record<string, Table>>;
  readonly logits: Table;
  readonly loss: number;
  readonly grads: Readonly<Record<string, Table>>;
  readonly losses: readonly number[];
  readonly after: Table;
}
const hf = fixture<{ readonly llama: Case; readonly gpt2: Case }>('adaption');
const TOLERANCE = 1e-5; // the fixtures are rounded to float32
const engine = float64();
test.each(['llama', 'gpt2'] as const)('%s: logits, gradients and three AdamW steps are those of PEFT', async (name) => {
  const f = hf[name];
  const { base, batch, tokens, targets } = networks[name];
  const project = name === 'llama'; // there, GPT-2's rows are added after the projection, unprojected
  const fresh = llamaAdapter({ length: 3, gate: 'one', project, where: fromBlock(1, 'attn') })(base);
  const own = (path: string): string =>
    Object.keys(f.tensors).find((n) => n.endsWith(path.endsWith('.P') ? 'adaption_prompt' : 'adaption_gate'))!;
  const model = withValues(fresh, new Map([...trainable(fresh)].map(([p, path]) => [p, Float32Array.from(f.tensors[own(path)]!.data)])));
  const answer = (m: Model): Tensor => m(batch, context(tokens));
  const loss = (m: Model): Tensor => crossEntropy(answer(m), targets);
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
