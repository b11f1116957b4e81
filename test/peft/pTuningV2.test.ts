// P-tuning v2: deep prompts and fresh heads on an encoder; several tasks with one set of prompts.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { crossEntropy } from '../../core/ops/fused.ts';
import { rng } from '../../core/rng.ts';
import type { Tensor } from '../../core/tensor.ts';
import { type Context, context, stochastic } from '../../nn/context.ts';
import type { Model } from '../../nn/layer.ts';
import { trainable } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';
import { prefixTuning } from '../../peft/additive/prefixTuning.ts';
import { pTuningV2, pTuningV2Tasks } from '../../peft/additive/pTuningV2.ts';
import { bertNetwork, numbersOf, WIDTH } from '../laws/models.ts';
import { trained } from './naive.ts';

const engine = float64();
const net = bertNetwork(1);
const tasks = () =>
  pTuningV2Tasks(net.base, { topic: { classes: 3 }, tags: { classes: 4, perToken: true } }, pTuningV2({ length: 2 }), rng(1));

test('is prefix tuning without an MLP at every layer, with dropout on the prefix in training', async () => {
  const [model, plain] = [pTuningV2({ length: 3, seed: 4 })(net.base), prefixTuning({ length: 3, bottleneck: null, seed: 4 })(net.base)];
  expect(await numbersOf(engine, net, model)).toEqual(await numbersOf(engine, net, plain));
  expect(trained(model)).toBe(2 * 2 * 3 * WIDTH); // 2Lpd
  const random = (m: Model, seed: number) =>
    engine
      .compile(engine.store(), { outputs: { y: m(net.batch, context(5, { draw: stochastic() })) } })
      .then(async (p) => (await p.run({}, seed)).y.slice());
  const heavy = pTuningV2({ length: 3, dropout: 0.5, seed: 4 })(net.base);
  expect(await random(heavy, 1)).toEqual(await random(heavy, 1));
  expect(await random(heavy, 1)).not.toEqual(await random(heavy, 2));
  expect(() => pTuningV2({ length: 3, dropout: 1 })(net.base)).toThrow(/dropout/);
});

test('tasks share the prompts and have heads of their own, which are trained with them', async () => {
  const { topic, tags } = tasks();
  const prompts = 2 * 2 * 2 * WIDTH;
  expect(trained(topic)).toBe(prompts + WIDTH * WIDTH + WIDTH + 3 * WIDTH + 3); // with BERT's pooler
  expect(trained(tags)).toBe(prompts + 4 * WIDTH + 4);
  const shared = [...trainable(topic).keys()].filter((p) => trainable(tags).has(p));
  expect(shared.reduce((n, p) => n + p.value.length, 0)).toBe(prompts);
  expect(topic(net.batch, context(5)).shape).toEqual([2, 3]);
  expect(tags(net.batch, context(5)).shape).toEqual([2, 5, 4]);
});

test('two tasks in turn train one set of prompts; each loss falls', async () => {
  const models = tasks();
  interface B {
    readonly ids: Tensor;
    readonly labels?: Tensor;
    readonly tags?: Tensor;
  }
  const loss = (m: typeof models, b: B, { draw }: Context): Tensor =>
    b.labels === undefined
      ? crossEntropy(m.tags({ ids: b.ids }, context(3, { draw })), b.tags!)
      : crossEntropy(m.topic({ ids: b.ids }, context(3, { draw })), b.labels);
  await using t = await trainer<typeof models, B>(models, { engine, loss, optimizer: adamw({ lr: 0.03 }) });
  const ids = { data: [1, 2, 3, 4, 5, 6], shape: [2, 3] };
  const batches = [
    { ids, labels: { data: [0, 2], shape: [2] } },
    { ids, tags: { data: [0, 1, 2, 3, 0, 1], shape: [2, 3] } },
  ] as never[];
  const before = [await t.evaluate([batches[0]!]), await t.evaluate([batches[1]!])];
  for (let k = 0; k < 12; k++) await t.step(batches[k % 2]!);
  const after = [await t.evaluate([batches[0]!]), await t.evaluate([batches[1]!])];
  expect(after[0]!).toBeLessThan(before[0]!);
  expect(after[1]!).toBeLessThan(before[1]!);
});
