// SSF and LN tuning: affine changes of features, against their equations, and their counts.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { context } from '../../nn/context.ts';
import { trainable } from '../../nn/tree.ts';
import { lnTuning } from '../../peft/additive/lnTuning.ts';
import { ssf } from '../../peft/additive/ssf.ts';
import { merge } from '../../peft/merge.ts';
import { gpt2Network, llamaNetwork, numbersOf, perturb, WIDTH } from '../laws/models.ts';
import { affine, apart, layerAt, own, random, rowsOf, trained } from './naive.ts';

const engine = float64();

test('γ ⊙ y + β after a linear layer (before the activation) and after a norm', async () => {
  const { base } = gpt2Network(1);
  const model = perturb(ssf()(base), 2);
  const x = random(3, [1, 4, WIDTH]);
  const rows = rowsOf(await engine.read(x), WIDTH);
  const [up, norm] = ['trunk.blocks.1.mlp.up', 'trunk.blocks.0.norm2'];
  const b = await own(engine, base, up);
  const p = await own(engine, model, up);
  const changed = (y: number[][], gamma: number[], beta: number[]): number[] =>
    y.flatMap((row) => row.map((v, j) => gamma[j]! * v + beta[j]!));
  const y = affine(rows, b.weight!, b.bias![0]);
  expect(
    apart(await engine.read(layerAt(model, 'linear', up)(x, context(4))), changed(y, p['ssfLinear.gamma']![0]!, p['ssfLinear.beta']![0]!)),
  ).toBeLessThan(1e-13);
  const q = await own(engine, model, norm);
  const before = rowsOf(await engine.read(layerAt(base, 'norm', norm)(x, context(4))), WIDTH);
  expect(
    apart(await engine.read(layerAt(model, 'norm', norm)(x, context(4))), changed(before, q['ssfNorm.gamma']![0]!, q['ssfNorm.beta']![0]!)),
  ).toBeLessThan(1e-13);
});

test('count 2(7d + f) per block and 2d per norm outside; the exact start is the base bit for bit; nothing is decayed', async () => {
  const [gpt, llama] = [gpt2Network(4), llamaNetwork(4)];
  const [d, f, L] = [WIDTH, 12, 2];
  expect(trained(ssf()(gpt.base))).toBe(L * 2 * (7 * d + f) + 2 * d);
  expect(trained(ssf()(llama.base))).toBe(L * 2 * (2 * d + (d + 2 * (d / 2)) + d + 2 * f + d) + 2 * d); // gated, fewer key heads
  for (const net of [gpt, llama]) {
    const exact = ssf({ init: 'identity' })(net.base);
    expect(await numbersOf(engine, net, exact)).toEqual(await numbersOf(engine, net, net.base));
    expect([...trainable(exact).keys()].every((p) => !p.decay)).toBe(true);
  }
});

test('merged into layers and norms without a bias, it gives them one', async () => {
  const net = llamaNetwork(5);
  const model = perturb(ssf()(net.base), 6);
  const merged = merge(model);
  expect(apart(await numbersOf(engine, net, merged), await numbersOf(engine, net, model))).toBeLessThan(1e-12);
  expect(layerAt(merged, 'norm', 'trunk.norm').fields.bias).not.toBeNull();
});

test('LN tuning trains all gains and shifts: 175 104 in the 57 norms of Llama-3.2-3B, 2d per layer norm', async () => {
  const site = { shape: [3072] } as never;
  expect(
    lnTuning.method.count(
      Array.from({ length: 57 }, () => site),
      {},
    ),
  ).toEqual({ train: 175_104, stored: 175_104 });
  const net = gpt2Network(7);
  const model = perturb(lnTuning()(net.base), 8);
  expect(trained(model)).toBe(5 * 2 * WIDTH);
  expect(trained(lnTuning()(llamaNetwork(7).base))).toBe(5 * WIDTH);
  const at = 'trunk.blocks.0.norm1';
  const x = random(9, [1, 3, WIDTH]);
  const [p, b] = [await own(engine, model, at), await own(engine, net.base, at)];
  const expected = rowsOf(await engine.read(x), WIDTH).flatMap((row) => {
    const mean = row.reduce((s, v) => s + v, 0) / WIDTH;
    const spread = Math.sqrt(row.reduce((s, v) => s + (v - mean) ** 2, 0) / WIDTH + 1e-5);
    return row.map(
      (v, j) =>
        (b.weight![0]![j]! + p['weight.lnTuning.delta']![0]![j]!) * ((v - mean) / spread) +
        b.bias![0]![j]! +
        p['bias.lnTuning.delta']![0]![j]!,
    );
  });
  expect(apart(await engine.read(layerAt(model, 'norm', at)(x, context(3))), expected)).toBeLessThan(1e-12);
  expect(() => lnTuning({ where: 'q.weight' })(net.base)).toThrow(
    /lnTuning: trunk\.blocks\.0\.attn\.q\.weight is not a norm's gain or shift/,
  );
});
