// BitFit: biases and nothing else, and the textbook fact about the bias of keys.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import { stateOf } from '../../core/tensor.ts';
import { decoder, llama } from '../../nn/decoder.ts';
import { freeze } from '../../nn/freeze.ts';
import { tensors, trainable } from '../../nn/tree.ts';
import { merge } from '../../peft/merge.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { bitfit } from '../../peft/selective/bitfit.ts';
import { generic, gpt2Network, llamaNetwork, numbersOf, perturb, run, WIDTH } from '../laws/models.ts';
import { apart, trained } from './naive.ts';

const engine = float64();

test('starts as the base bit for bit; trains 4d + f + d + 2d per block and the last norm; subsets by where', async () => {
  const net = gpt2Network(1);
  const model = bitfit()(net.base);
  expect(await numbersOf(engine, net, model)).toEqual(await numbersOf(engine, net, net.base));
  const [d, f] = [WIDTH, 12];
  expect(trained(model)).toBe(2 * (4 * d + f + d + 2 * d) + d);
  expect(trained(bitfit({ where: ['q.bias', 'up.bias'] })(net.base))).toBe(2 * (d + f));
  expect([...trainable(model).values()].every((path) => /\.bias\.bitfit\.delta$/.test(path))).toBe(true);
});

test('b + δ with δ = −0 is b, also where b is −0', () => {
  for (const b of [0, -0, 1.5]) expect(Object.is(b + -0, b)).toBe(true);
  for (const p of trainable(bitfit()(gpt2Network(1).base)).keys()) expect(p.value.every((v) => Object.is(v, -0))).toBe(true);
});

test('the same as a network whose biases are b + δ, also beneath LoRA', async () => {
  const net = gpt2Network(2);
  const model = perturb(bitfit()(net.base), 3);
  const values = new Map<string, number[]>();
  for (const { path, tensor } of tensors(model)) values.set(path, [...(await engine.read(tensor))]);
  for (const { path, tensor } of tensors(merge(model))) {
    const [w, delta] = [values.get(path)!, values.get(`${path}.bitfit.delta`)];
    expect(apart(await engine.read(tensor), delta === undefined ? w : w.map((b, i) => b + delta[i]!))).toBe(0);
    expect(delta === undefined).toBe(!path.endsWith('.bias'));
  }
  const both = perturb(bitfit()(lora({ rank: 2 })(net.base)), 4);
  expect(apart(await numbersOf(engine, net, merge(both)), await numbersOf(engine, net, both))).toBeLessThan(1e-12);
});

test('the bias of keys has no gradient with absolute positions, and has one with rotary positions', async () => {
  const gradients = async (net: ReturnType<typeof gpt2Network>): Promise<Record<string, number>> => {
    const model = bitfit({ where: ['q.bias', 'k.bias'] })(net.base);
    const at = [...trainable(model)];
    const g = grad(
      run(net, model).loss,
      at.map(([p]) => stateOf(p)),
    );
    const norms: Record<string, number> = {};
    for (const [i, [, path]] of at.entries()) norms[path] = Math.hypot(...(await engine.read(g[i]!)));
    return norms;
  };
  for (const [path, norm] of Object.entries(await gradients(gpt2Network(5))))
    if (path.includes('.k.')) expect(norm).toBeLessThan(1e-15);
    else expect(norm).toBeGreaterThan(1e-5);
  const r = rng(6);
  const rotary = freeze(generic(decoder(llama({ vocabulary: 11, width: WIDTH, layers: 2, heads: 2, positions: 16, bias: true }), r), r));
  for (const norm of Object.values(await gradients({ ...llamaNetwork(6), base: rotary }))) expect(norm).toBeGreaterThan(1e-5);
});

test('refused: a network without biases, with what to do; a site that is no bias', () => {
  expect(() => bitfit()(llamaNetwork(1).base)).toThrow(
    /bitfit: .*matches no weight.*there are none here \(LLaMA has none\): use ia3, lora/s,
  );
  expect(() => bitfit({ where: 'q.weight' })(gpt2Network(1).base)).toThrow(/q.weight is not a bias.*where: \['q.bias', 'up.bias'\]/);
});
