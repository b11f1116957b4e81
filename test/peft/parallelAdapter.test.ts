// The parallel adapter against its equation, with each form of its scale.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import type { Numbers } from '../../core/plan.ts';
import { context } from '../../nn/context.ts';
import { trainable } from '../../nn/tree.ts';
import { parallelAdapter } from '../../peft/additive/parallelAdapter.ts';
import { bertNetwork, gpt2Network, type Network, numbersOf, perturb, WIDTH } from '../laws/models.ts';
import { affine, apart, each, layerAt, own, plus, random, relu, rowsOf, scaled, trained } from './naive.ts';

const engine = float64();
const path = 'trunk.blocks.1.mlp';

test.each([2.5, 'learned', 'channels'] as const)('y = mlp(x) + s(W_up σ(W_down x + b_down) + b_up), s %s', async (scale) => {
  const net = gpt2Network(4);
  const model = perturb(parallelAdapter({ bottleneck: 3, scale })(net.base), 2);
  const x = random(6, [2, 3, WIDTH]);
  const rows = rowsOf(await engine.read(x), WIDTH);
  const y = rowsOf(await engine.read(layerAt(net.base, 'branch', path)(x, context(3))), WIDTH);
  const p = await own(engine, model, `${path}.parallelAdapter`);
  const s = (j: number): number => (scale === 'learned' ? p.s![0]![0]! : scale === 'channels' ? p.s![0]![j]! : scale);
  const adapter = affine(each(affine(rows, p.down!, p.downBias!.flat()), relu), p.up!, p.upBias!.flat());
  const expected = plus(
    y,
    scaled(adapter, (_, j) => s(j)),
  );
  expect(apart(await engine.read(layerAt(model, 'branch', path)(x, context(3))), expected.flat())).toBeLessThan(1e-12);
});

test("input: 'stream' reads what x was normalised from; after a norm of its own (BERT) that is x", async () => {
  const [pre, post] = [gpt2Network(4), bertNetwork(4)];
  const of = (net: Network, input: 'sublayer' | 'stream'): Promise<Numbers> =>
    numbersOf(engine, net, perturb(parallelAdapter({ bottleneck: 3, input })(net.base), 2));
  expect(await of(post, 'stream')).toEqual(await of(post, 'sublayer'));
  expect(apart(await of(pre, 'stream'), await of(pre, 'sublayer'))).toBeGreaterThan(1e-3);
  const model = perturb(parallelAdapter({ bottleneck: 3, input: 'stream' })(pre.base), 2);
  const [x, stream] = [random(6, [1, 3, WIDTH]), random(7, [1, 3, WIDTH])];
  const p = await own(engine, model, `${path}.parallelAdapter`);
  const y = rowsOf(await engine.read(layerAt(pre.base, 'branch', path)(x, context(3))), WIDTH);
  const adapter = affine(
    each(affine(rowsOf(await engine.read(stream), WIDTH), p.down!, p.downBias!.flat()), relu),
    p.up!,
    p.upBias!.flat(),
  );
  const expected = plus(
    y,
    scaled(adapter, () => 4),
  );
  const ctx = { ...context(3), residual: { stream, norm: null } };
  expect(apart(await engine.read(layerAt(model, 'branch', path)(x, ctx)), expected.flat())).toBeLessThan(1e-12);
});

test('count: 2md + m + d for each block, 1 or d more where s is trained; s starts at 1 and is not decayed', () => {
  const { base } = gpt2Network(1);
  const each = 2 * 4 * WIDTH + 4 + WIDTH; // m = d / 2
  expect(trained(parallelAdapter()(base))).toBe(2 * each);
  expect(trained(parallelAdapter({ scale: 'learned' })(base))).toBe(2 * (each + 1));
  expect(trained(parallelAdapter({ scale: 'channels' })(base))).toBe(2 * (each + WIDTH));
  const scales = [...trainable(parallelAdapter({ scale: 'learned' })(base))].filter(([, at]) => at.endsWith('.s'));
  expect(scales.map(([p]) => [...p.value, p.decay])).toEqual([
    [1, false],
    [1, false],
  ]);
});

test('starts as the base, at the width it was asked for, whatever s', async () => {
  const net = gpt2Network(2);
  const base = await numbersOf(engine, net, net.base);
  for (const scale of [4, 'learned', 'channels'] as const)
    expect(apart(await numbersOf(engine, net, parallelAdapter({ scale, bottleneck: 2 * WIDTH })(net.base)), base)).toBe(0);
});

test('refused: half a unit, a scale that is not a number', () => {
  const { base } = gpt2Network(1);
  expect(() => parallelAdapter({ bottleneck: 1.5 })(base)).toThrow(/parallelAdapter: bottleneck 1.5 must be a whole number/);
  expect(() => parallelAdapter({ scale: Number.NaN })(base)).toThrow(
    /parallelAdapter: scale NaN must be 'learned', 'channels' or a finite number/,
  );
});
