// The serial adapter against its equation, its count, and its starts.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { leaf } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { unfreeze } from '../../nn/freeze.ts';
import { trainable } from '../../nn/tree.ts';
import { throughBottleneck } from '../../peft/additive/bottleneck.ts';
import { houlsby } from '../../peft/additive/houlsby.ts';
import { detach } from '../../peft/merge.ts';
import { gpt2Network, llamaNetwork, numbersOf, perturb, WIDTH } from '../laws/models.ts';
import { affine, apart, each, layerAt, own, plus, random, relu, rowsOf, silu, trained } from './naive.ts';

const engine = float64();

test.each([
  ['silu', silu],
  ['relu', relu],
] as const)('A(h) = h + W_up σ(W_down h + b_down) + b_up on the output of both sublayers, σ = %s', async (activation, f) => {
  const net = llamaNetwork(3);
  const model = perturb(houlsby({ bottleneck: 3, activation })(net.base), 1);
  for (const path of ['trunk.blocks.0.attn', 'trunk.blocks.1.mlp']) {
    const x = random(5, [2, 3, WIDTH]);
    const h = rowsOf(await engine.read(layerAt(net.base, 'branch', path)(x, context(3))), WIDTH);
    const p = await own(engine, model, `${path}.houlsby`);
    const expected = plus(h, affine(each(affine(h, p.down!, p.downBias!.flat()), f), p.up!, p.upBias!.flat()));
    expect(apart(await engine.read(layerAt(model, 'branch', path)(x, context(3))), expected.flat())).toBeLessThan(1e-12);
  }
});

test('by hand: width 2, one unit, ReLU(0.5·1 − 0.25·2 + 0.5) = 0.5', async () => {
  const h = leaf([1, -2], [1, 2]);
  const p = { down: leaf([0.5, 0.25], [1, 2]), downBias: leaf([0.5], [1]), up: leaf([2, -1], [2, 1]), upBias: leaf([0.25, 0.5], [2]) };
  expect([...(await engine.read(h.add(throughBottleneck(h, p, 'relu'))))]).toEqual([1 + 1 + 0.25, -2 - 0.5 + 0.5]);
});

test('count: L·2(2md + m + d); with the norms 4dL and the last norm 2d more', () => {
  const { base } = gpt2Network(1);
  const [L, m, d] = [2, 3, WIDTH];
  const model = houlsby({ bottleneck: m })(base);
  expect(trained(model)).toBe(L * 2 * (2 * m * d + m + d));
  const withNorms = unfreeze(model, (path) => /norm\d?\.(weight|bias)$/.test(path));
  expect(trained(withNorms)).toBe(L * 2 * (2 * m * d + m + d) + 4 * d * L + 2 * d);
  expect([...trainable(withNorms).values()]).toContain('trunk.blocks.0.norm1.bias');
});

test('the reduction factor gives the bottleneck, never less than 1', () => {
  const { base } = gpt2Network(1);
  expect(trained(houlsby({ reduction: 4, where: 'trunk.blocks.0.mlp' })(base))).toBe(2 * 2 * WIDTH + 2 + WIDTH);
  expect(trained(houlsby({ where: 'trunk.blocks.0.mlp' })(base))).toBe(2 * WIDTH + 1 + WIDTH);
});

test('starts: zero is the base, bert and houlsby are near it; the paper cuts its normal at two deviations; removed, it is the base', async () => {
  const net = gpt2Network(2);
  const base = await numbersOf(engine, net, net.base);
  expect(apart(await numbersOf(engine, net, houlsby({ init: 'zero' })(net.base)), base)).toBe(0);
  for (const init of ['bert', 'houlsby'] as const) {
    const model = houlsby({ init, bottleneck: 4 })(net.base);
    const distance = apart(await numbersOf(engine, net, model), base);
    expect(distance).toBeGreaterThan(0);
    expect(distance).toBeLessThan(0.05);
    expect(await numbersOf(engine, net, detach(model))).toEqual(base);
  }
  for (const [init, std] of [
    ['houlsby', 0.01],
    [0.001, 0.001],
  ] as const)
    for (const { value, shape } of trainable(houlsby({ init, bottleneck: 8 })(net.base)).keys())
      if (shape.length === 2) {
        expect(Math.max(...Array.from(value, Math.abs))).toBeLessThanOrEqual(2 * std * (1 + 1e-6));
        expect(Math.max(...Array.from(value, Math.abs))).toBeGreaterThan(std);
      }
});

test('refused: a bottleneck of 0, a reduction of 0', () => {
  const { base } = gpt2Network(1);
  expect(() => houlsby({ bottleneck: 0 })(base)).toThrow(/houlsby: bottleneck 0 must be a whole number/);
  expect(() => houlsby({ init: 0 })(base)).toThrow(/init 0 is a standard deviation and must be more than 0/);
  expect(() => houlsby({ reduction: 0 })(base)).toThrow(/houlsby: reduction 0 must be more than 0/);
});
