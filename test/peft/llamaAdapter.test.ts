// LLaMA-Adapter against its equation, in the authors' form and in Hugging Face PEFT's, with rotary positions and grouped keys.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { stateOf } from '../../core/tensor.ts';
import { context, stochastic } from '../../nn/context.ts';
import { layers, trainable } from '../../nn/tree.ts';
import { llamaAdapter } from '../../peft/additive/llamaAdapter.ts';
import { stack } from '../../peft/combinators.ts';
import { merge } from '../../peft/merge.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { fromBlock } from '../../peft/site.ts';
import { gpt2Network, llamaNetwork, type Network, numbersOf, perturb, run, WIDTH } from '../laws/models.ts';
import { affine, apart, attention, layerAt, type Matrix, own, plus, random, rowsOf, trained } from './naive.ts';

const engine = float64();
const path = 'trunk.blocks.1.attn';
const cols = (m: Matrix, from: number, to: number): number[][] => m.map((row) => row.slice(from, to));

/** q of the first text's tokens by head, rotated by hand where the network rotates. */
function heads(q: Matrix, net: Network): number[][][] {
  const D = WIDTH / 2;
  return [0, 1].map((h) =>
    cols(q, h * D, (h + 1) * D).map((row, t) =>
      net.name !== 'llama'
        ? row
        : row.map((v, i) => {
            const angle = t / 10000 ** ((2 * (i % (D / 2))) / D);
            return v * Math.cos(angle) + (i < D / 2 ? -row[i + D / 2]! : row[i - D / 2]!) * Math.sin(angle);
          }),
    ),
  );
}

test.each([
  { net: llamaNetwork(3), options: {}, form: 'authors' },
  { net: gpt2Network(3), options: {}, form: 'authors' },
  { net: llamaNetwork(3), options: { gate: 'one' as const }, form: 'Hugging Face on LLaMA' },
  { net: gpt2Network(3), options: { gate: 'one' as const, project: false }, form: 'Hugging Face on GPT-2' },
])('$net.name, $form: a softmax of its own over unrotated prompt keys, gated', async ({ net, options }) => {
  const model = perturb(llamaAdapter({ length: 3, ...options })(net.base), 1);
  const x = random(5, [1, 4, WIDTH]);
  const ctx = context(4, { causal: true });
  const base = rowsOf(await engine.read(layerAt(net.base, 'branch', path)(x, ctx)), WIDTH);
  const { P, gate } = await own(engine, model, `${path}.llamaAdapter`);
  const w = await own(engine, net.base, path);
  const bias = (name: string): number[] | undefined => w[`${name}.bias`]?.flat();
  const [k, v] = ['k', 'v'].map((name) => affine(P!, w[`${name}.weight`]!, bias(name)));
  const q = heads(affine(rowsOf(await engine.read(x), WIDTH), w['q.weight']!, bias('q')), net);
  const D = WIDTH / 2;
  const parts = q.map((rows, h) => {
    const at = net.name === 'llama' ? 0 : h * D; // LLaMA's two query heads share one key head
    const g = gate!.flat().length === 1 ? gate!.flat()[0]! : Math.tanh(gate!.flat()[h]!);
    return attention(rows, cols(k!, at, at + D), cols(v!, at, at + D), () => true).map((row) => row.map((o) => o * g)); // no mask
  });
  const joined = parts[0]!.map((row, t) => [...row, ...parts[1]![t]!]);
  const added = 'project' in options ? joined : affine(joined, w['o.weight']!);
  expect(gate!.flat().length).toBe('gate' in options ? 1 : 2);
  expect(apart(await engine.read(layerAt(model, 'branch', path)(x, ctx)), plus(base, added).flat())).toBeLessThan(1e-11);
});

test('the gate is 0 at first: the base, no gradient for the rows, one for the gate', async () => {
  const net = llamaNetwork(2);
  const model = llamaAdapter({ length: 3 })(net.base);
  expect(apart(await numbersOf(engine, net, model), await numbersOf(engine, net, net.base))).toBe(0);
  const { loss } = run(net, model);
  for (const [p, at] of trainable(model)) {
    const [g] = grad(loss, [stateOf(p)]);
    expect((await engine.read(g!)).some((v) => v !== 0)).toBe(at.endsWith('.gate'));
  }
});

test('only the top blocks, when asked; count l(Kd + H), Hugging Face l(Kd + 1) and its published count', () => {
  const { base } = gpt2Network(1);
  const top = llamaAdapter({ length: 3, where: fromBlock(1, 'attn') })(base);
  expect([...layers(top)].flatMap(({ path: p, layer: l }) => (l.attached === null ? [] : [p]))).toEqual([path]);
  expect(trained(top)).toBe(3 * WIDTH + 2);
  expect(trained(llamaAdapter({ length: 3, gate: 'one' })(base))).toBe(2 * (3 * WIDTH + 1));
  const sites = Array.from({ length: 28 }, () => ({ dim: () => 3072, within: () => [{ dim: () => 24 }] })); // Llama-3.2-3B
  expect(llamaAdapter.method.count(sites as never, { length: 100, gate: 'one' }).train).toBe(8_601_628);
});

test('a method on the projections acts on the rows too; its dropout is for the text alone', async () => {
  const net = llamaNetwork(2);
  const model = perturb(stack(lora({ rank: 2, dropout: 0.5, where: ['k', 'v'] }), llamaAdapter({ length: 3 }))(net.base), 1);
  const plan = await engine.compile(engine.store(), { outputs: { loss: run(net, model, stochastic()).loss } });
  expect((await plan.run({}, 1)).loss[0]).not.toBe((await plan.run({}, 2)).loss[0]);
  const folded = perturb(llamaAdapter({ length: 3 })(merge(perturb(lora({ rank: 2, where: ['k', 'v'] })(net.base), 1))), 1);
  expect(apart(await numbersOf(engine, net, model), await numbersOf(engine, net, folded))).toBeLessThan(1e-12);
});

test('refused: no rows, a branch that is no attention', () => {
  const { base } = gpt2Network(1);
  expect(() => llamaAdapter({ length: 0 })(base)).toThrow(/length 0 must be a whole number/);
  expect(() => llamaAdapter({ where: 'mlp' })(base)).toThrow(/trunk.blocks.0.mlp is no attention/);
});
