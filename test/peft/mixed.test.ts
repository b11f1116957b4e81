// Mixed-adapter batches: one call where adapters are alike, rows chosen where they are not, and what is refused.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { leaf, type Tensor, topological } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { generate } from '../../nn/generate.ts';
import type { Model } from '../../nn/layer.ts';
import { tensors, trainable } from '../../nn/tree.ts';
import { houlsby } from '../../peft/additive/houlsby.ts';
import { promptTuning } from '../../peft/additive/promptTuning.ts';
import { stack } from '../../peft/combinators.ts';
import { detach, merge } from '../../peft/merge.ts';
import type { Transform } from '../../peft/method.ts';
import { mixed } from '../../peft/mixed.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { pissa } from '../../peft/reparameterized/pissa.ts';
import { bitfit } from '../../peft/selective/bitfit.ts';
import { bertNetwork, gpt2Network, llamaNetwork, perturb } from '../laws/models.ts';
import { apart } from './naive.ts';

const engine = float64();
const ids = leaf([1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3], [4, 3]);
const on = (net: { base: Model }, t: Transform, seed: number): Model => perturb(t(net.base), seed);
const read = async (m: Model, adapter?: number[]): Promise<number[][]> => {
  const y = await engine.read(m({ ids }, context(3)), adapter === undefined ? {} : { adapter });
  return Array.from({ length: 4 }, (_, r) => [...y.slice((r * y.length) / 4, ((r + 1) * y.length) / 4)]);
};
const products = (t: Tensor): number => topological([t]).filter(({ source: s }) => s.kind === 'apply' && s.op.name === 'matmul').length;
async function rowByRow(models: readonly Model[], served: number[]): Promise<void> {
  const [together, ...alone] = [await read(mixed(models), served), ...(await Promise.all(models.map((m) => read(m))))];
  for (const [row, n] of served.entries()) expect(apart(together![row]!, alone[n]![row]!), `row ${row}, adapter ${n}`).toBeLessThan(1e-12);
}
const plain = lora({ rank: 2, where: ['q', 'v', 'down'] });

test('LoRAs of one configuration share one call: as many products as with one LoRA', async () => {
  const net = llamaNetwork(3);
  const models = [1, 2, 3].map((s) => on(net, plain, s));
  expect(products(mixed(models)({ ids }, context(3)))).toBe(products(models[0]!({ ids }, context(3))));
  await rowByRow(models, [2, 0, 1, 2]);
});

test('other ranks and scales, the base itself, PiSSA with its own base weight, and other methods, row by row', async () => {
  const net = gpt2Network(4);
  const ready = await pissa({ rank: 2, where: ['q'] }).prepare(net.base, { engine });
  await rowByRow([on(net, plain, 1), net.base, on(net, lora({ rank: 3, alpha: 9, where: ['q'] }), 2), on(net, plain, 3)], [1, 2, 3, 0]);
  await rowByRow([on(net, ready, 1), on(net, ready, 2), on(net, houlsby({ bottleneck: 2 }), 3), on(net, plain, 4)], [3, 1, 2, 0]);
});

test('prompts and LoRA stacked; a prompt for some rows only', async () => {
  const both = stack(promptTuning({ length: 2 }), plain);
  for (const net of [gpt2Network(5), bertNetwork(5)]) {
    await rowByRow([on(net, both, 1), on(net, both, 2)], [1, 0, 0, 1]);
    await rowByRow([on(net, promptTuning({ length: 3 }), 1), net.base, on(net, plain, 2)], [2, 1, 0, 0]);
  }
});

test('an adapter gets the gradient of its own rows only', async () => {
  const net = gpt2Network(6);
  const models = [on(net, plain, 1), on(net, plain, 2)];
  const wanted = [...tensors(models[0]!)].filter(({ path }) => /lora\.[AB]$/.test(path)).map(({ tensor }) => tensor);
  expect(new Set(trainable(mixed(models)).keys()).size).toBe(2 * wanted.length);
  const served = [0, 1, 1, 0];
  const loss = (y: Tensor, rows: number[]): Tensor =>
    rows
      .map((r) =>
        y
          .slice(0, r, r + 1)
          .mul(y.slice(0, r, r + 1))
          .sum(),
      )
      .reduce((a, b) => a.add(b));
  const together = grad(loss(mixed(models)({ ids }, context(3)), [0, 1, 2, 3]), wanted);
  const alone = grad(loss(models[0]!({ ids }, context(3)), [0, 3]), wanted);
  for (const [k, g] of together.entries())
    expect(apart(await engine.read(g, { adapter: served }), await engine.read(alone[k]!))).toBeLessThan(1e-11);
});

test('generation with a row → adapter feed gives each row the text of its adapter', async () => {
  const net = llamaNetwork(7);
  const models = [on(net, stack(promptTuning({ length: 2 }), plain), 1), on(net, stack(promptTuning({ length: 2 }), plain), 2), net.base];
  const options = { engine, tokens: 4, temperature: 0 };
  const [prompts, served] = [
    [[1, 2], [3], [4, 5, 6]],
    [2, 1, 0],
  ];
  const expected = await Promise.all(prompts.map((p, r) => generate(models[served[r]!]!, p, options)));
  expect(await generate(mixed(models), prompts, { ...options, feed: { adapter: served } })).toEqual(expected);
});

test('refused: no such adapter, other networks, weights that rows share; merging; detached it is the base', async () => {
  const net = gpt2Network(8);
  const [a, b] = [on(net, plain, 1), on(net, lora({ rank: 1 }), 2)];
  await expect(read(mixed([a, on(net, plain, 3)]), [0, 1, 2, 0])).rejects.toThrow(/adapter/);
  await expect(read(mixed([a, b]), [0, 1, 2, 0])).rejects.toThrow(/adapter/);
  expect(() => mixed([])).toThrow(/no models given/);
  expect(() => mixed([a, on(gpt2Network(9), plain, 1)])).toThrow(/not the same at .*one frozen network/);
  expect(() => mixed([a, on(net, bitfit(), 1)])).toThrow(/bitfit changes the weight .*which all rows of a batch share/);
  expect(() => merge(mixed([a, b]))).toThrow(/mixed at trunk\.blocks\.0\.attn\.q is not a change of weights/);
  expect(await read(detach(mixed([a, b])))).toEqual(await read(net.base));
});
