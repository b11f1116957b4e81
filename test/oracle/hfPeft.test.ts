// Every method that Hugging Face PEFT has too, against it: logits, loss, the gradient of every trained tensor, and three AdamW steps.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { crossEntropy } from '../../core/ops/fused.ts';
import { size } from '../../core/shape.ts';
import { stateOf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { withValues } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { layers, trainable } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';
import { fixture, off, type Table } from './fixtures.ts';
import { type Part, type Recorded, cases as shared } from './hfPeftCases.ts';
import { joined } from './hfPeftJoined.ts';
import { updates } from './hfPeftUpdates.ts';
import { networks } from './networks.ts';

const TOLERANCE = 1e-7; // tensors are float32 numbers, everything else is computed in double precision on both sides
const engine = float64();
/** What went in is written as the shortest text of a float32 number. */
const exactly = (t: Table | undefined, part: Part): Table | undefined =>
  t === undefined || part !== 'tensors' ? t : { ...t, data: t.data.map(Math.fround) };

const cases = { ...shared, ...updates, ...joined };

test.each(Object.keys(cases))('%s', async (title) => {
  const c = cases[title]!;
  const n = networks[c.network];
  const f = fixture<{ readonly cases: Readonly<Record<string, Recorded>> }>(`peft-${c.group}`).cases[title]!;
  const numbers = (path: string, part: Part): readonly number[] => c.from(path, (name) => exactly(f[part][name], part), part);
  const fresh = await c.make(n, f);
  const model = withValues(fresh, new Map([...trainable(fresh)].map(([p, path]) => [p, Float64Array.from(numbers(path, 'tensors'))])));
  const all = [...trainable(model)];
  const scalars = (tables: Readonly<Record<string, Table>>): number => Object.values(tables).reduce((sum, t) => sum + size(t.shape), 0);
  expect(all.reduce((sum, [p]) => sum + size(p.shape), 0)).toBe(scalars(f.tensors)); // all of theirs, and nothing else

  const answer = (m: Model): Tensor => m(n.batch, context(n.tokens));
  const loss = (m: Model): Tensor => crossEntropy(answer(m), n.targets);
  const penalties = [...layers(model)].flatMap(({ layer: l }) => l.attached?.hooks.penalty?.() ?? []);
  const whole = penalties.reduce((s, p) => s.add(p), loss(model));
  const grads = grad(
    whole,
    all.map(([p]) => stateOf(p)),
  );
  const outputs: Record<string, Tensor> = { logits: answer(model), whole, ...Object.fromEntries(grads.map((g, k) => [all[k]![1], g])) };
  const got = await (await engine.compile(engine.store(), { outputs })).run(c.feed);
  expect(off(got.logits!, f.logits), 'logits').toBeLessThan(TOLERANCE);
  expect(Math.abs(got.whole![0]! - f.loss), 'loss').toBeLessThan(TOLERANCE);
  const compare = (path: string, values: ArrayLike<number>, part: Part): void => {
    const wanted = numbers(path, part);
    expect(off(values, { shape: [], data: wanted }), `${part} of ${path}`).toBeLessThan(TOLERANCE);
  };
  for (const [, path] of all) compare(path, got[path]!, 'grads');
  expect(Math.max(...all.flatMap(([, path]) => numbers(path, 'grads').map(Math.abs)))).toBeGreaterThan(1e-3); // there is something to compare

  const batch = Object.fromEntries(Object.entries(c.feed).map(([k, data]) => [k, { data, shape: [data.length] }]));
  await using t = await trainer(model, { engine, loss, optimizer: c.optimizer ?? adamw({ lr: 0.01, weightDecay: 0 }), total: 3 });
  const losses: number[] = [];
  for (const _ of f.losses) {
    const step = await t.step(batch);
    losses.push(step.loss + step.penalty);
  }
  expect(off(losses, { shape: [], data: f.losses }), 'losses').toBeLessThan(TOLERANCE);
  for (const [p, path] of trainable(await t.model())) compare(path, p.value, 'after');
});
