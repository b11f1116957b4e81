// AdaMix: routing, averaging, and both consistency losses against their definitions.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { crossEntropy } from '../../core/ops/fused.ts';
import { stateOf, type Tensor, topological } from '../../core/tensor.ts';
import { context, quiet, stochastic } from '../../nn/context.ts';
import { realize, withValues } from '../../nn/freeze.ts';
import { tensors, trainable } from '../../nn/tree.ts';
import { adamix } from '../../peft/additive/adamix.ts';
import { klToMean, symmetricKl, twoPasses } from '../../peft/additive/adamixLoss.ts';
import { houlsby } from '../../peft/additive/houlsby.ts';
import { finish } from '../../peft/merge.ts';
import { gpt2Network, numbersOf, perturb, run, TOKENS, WIDTH } from '../laws/models.ts';
import { apart, random, rowsOf, softmax, trained } from './naive.ts';

const engine = float64();
const net = gpt2Network(4);

test('one expert is the adapter of Houlsby after the feed-forward sublayer', async () => {
  const one = adamix({ experts: 1, bottleneck: 3 })(net.base);
  const same = houlsby({ bottleneck: 3, activation: 'gelu', where: 'mlp' })(net.base);
  const values = new Map(
    [...trainable(one)].map(([p, path]) => [path.replace(/adamix\.(\w+)\.0$/, 'houlsby.$1'), Float64Array.from(p.value)]),
  );
  const filled = withValues(same, new Map([...trainable(same)].map(([p, path]) => [p, values.get(path)!])));
  expect(await numbersOf(engine, net, filled)).toEqual(await numbersOf(engine, net, one));
});

test('evaluated it is the mean of the experts, biases too; finished it holds that mean, of the size of one', async () => {
  const model = perturb(adamix({ experts: 3, bottleneck: 2 })(net.base), 1);
  const done = await realize(finish(model), engine);
  expect(apart(await numbersOf(engine, net, done), await numbersOf(engine, net, model))).toBeLessThan(1e-12);
  const at = 'trunk.blocks.1.mlp.adamix';
  const read = async (m: typeof model, path: string): Promise<number[]> => [
    ...(await engine.read([...tensors(m)].find((t) => t.path === path)!.tensor)),
  ];
  for (const name of ['down', 'downBias', 'up', 'upBias']) {
    const all = await Promise.all([0, 1, 2].map((k) => read(model, `${at}.${name}.${k}`)));
    const mean = all[0]!.map((_, i) => (all[0]![i]! + all[1]![i]! + all[2]![i]!) / 3);
    expect(apart(await read(done, `${at}.${name}.0`), mean)).toBeLessThan(1e-12);
  }
});

test('equal experts: whichever is drawn, and their mean, compute the same', async () => {
  const model = adamix({ experts: 4, bottleneck: 2 })(net.base);
  const first = new Map([...trainable(model)].map(([p, path]) => [path, Float64Array.from(p.value)]));
  const equal = withValues(model, new Map([...trainable(model)].map(([p, path]) => [p, first.get(path.replace(/\d$/, '0'))!])));
  const { output } = run(net, equal, stochastic());
  const plan = await engine.compile(engine.store(), { outputs: { output } });
  const expected = await numbersOf(engine, net, equal);
  for (const seed of [1, 2, 3]) expect(apart((await plan.run({}, seed)).output, expected)).toBeLessThan(1e-12);
});

test('a pass uses one down and one up expert at each place, drawn independently and evenly; the others get no gradient', async () => {
  const model = perturb(adamix({ experts: 2, bottleneck: 2, where: 'trunk.blocks.1.mlp' })(net.base), 1);
  const { loss } = run(net, model, stochastic());
  const all = [...trainable(model)];
  const grads = grad(
    loss,
    all.map(([p]) => stateOf(p)),
  );
  const plan = await engine.compile(engine.store(), { outputs: Object.fromEntries(grads.map((g, k) => [all[k]![1], g])) });
  const seen = new Map<string, number>();
  const runs = 64;
  for (let seed = 0; seed < runs; seed++) {
    const got = await plan.run({}, seed);
    const used = (name: string): string => [0, 1].filter((k) => got[`trunk.blocks.1.mlp.adamix.${name}.${k}`]!.some((v) => v !== 0)).join();
    expect([used('downBias'), used('upBias')]).toEqual([used('down'), used('up')]); // weight and bias go together
    const drawn = `${used('down')} ${used('up')}`;
    seen.set(drawn, (seen.get(drawn) ?? 0) + 1);
  }
  expect([...seen.keys()].sort()).toEqual(['0 0', '0 1', '1 0', '1 1']);
  const chi2 = [...seen.values()].reduce((s, h) => s + (h - runs / 4) ** 2 / (runs / 4), 0);
  expect(chi2).toBeLessThan(16.27); // χ²₃ exceeds it once in a thousand; the seeds are fixed
});

test('count: M times each projection, a shared one once', () => {
  const [down, up] = [3 * WIDTH + 3, 3 * WIDTH + WIDTH];
  expect(trained(adamix({ experts: 4, bottleneck: 3 })(net.base))).toBe(2 * 4 * (down + up));
  expect(trained(adamix({ experts: 4, bottleneck: 3, shareUp: true })(net.base))).toBe(2 * (4 * down + up));
  expect(trained(adamix({ experts: 4, bottleneck: 3, shareDown: true, shareUp: true })(net.base))).toBe(2 * (down + up));
  const of = adamix.method.count([{ dim: () => 768 }] as never, { ...adamix.method.defaults });
  expect([12 * of.train, 12 * of.stored]).toEqual([12 * 4 * (2 * 48 * 768 + 48 + 768), 12 * (2 * 48 * 768 + 48 + 768)]); // 0.9 M stored
  expect(() => adamix({ experts: 0 })(net.base)).toThrow(/experts 0 must be a whole number/);
});

const [l1, l2] = [random(1, [3, 4]), random(2, [3, 4])];
const kl = (p: number[], q: number[]): number => p.reduce((s, v, i) => s + v * Math.log(v / q[i]!), 0);
test('both consistency losses; the gradient of the symmetric one stops at its targets', async () => {
  const [a, b] = [rowsOf(await engine.read(l1), 4), rowsOf(await engine.read(l2), 4)];
  const [p, q, m] = [a.map(softmax), b.map(softmax), a.map((row, t) => softmax(row.map((v, i) => (v + b[t]![i]!) / 2)))];
  const over = (f: (t: number) => number): number => [0, 1, 2].reduce((s, t) => s + f(t), 0);
  expect(await engine.item(symmetricKl(l1, l2))).toBeCloseTo(over((t) => kl(p[t]!, q[t]!) + kl(q[t]!, p[t]!)) / 2 / 3, 12);
  expect(await engine.item(klToMean(l1, l2))).toBeCloseTo(over((t) => kl(m[t]!, p[t]!) + kl(m[t]!, q[t]!)) / 2 / 12, 12);
  expect(await engine.item(symmetricKl(l1, l1))).toBeCloseTo(0, 15);
  const [g] = grad(symmetricKl(l1, l2), [l1]); // ½ d KL(q‖p)/d l1 = ½(p − q)/rows
  const expected = p.flatMap((row, t) => row.map((v, i) => (v - q[t]![i]!) / 2 / 3));
  expect(apart(await engine.read(g!), expected)).toBeLessThan(1e-12);
});

test('twoPasses: two different draws when random, the plain loss when quiet', async () => {
  const model = perturb(adamix({ experts: 2, bottleneck: 2 })(net.base), 1);
  const logits = (m: typeof model, batch: typeof net.batch, ctx: ReturnType<typeof context>): Tensor => m(batch, ctx);
  const plain = (y: Tensor): Tensor => crossEntropy(y, net.targets);
  const ctx = context(TOKENS, { draw: quiet });
  const quietLoss = twoPasses(logits, plain)(model, net.batch, ctx);
  expect(await engine.item(quietLoss)).toBe(await engine.item(run(net, model).loss));
  const names = (t: Tensor): string[] => topological([t]).flatMap(({ source: s }) => (s.kind === 'input' ? [s.name] : []));
  for (const consistency of ['symmetric', 'mean'] as const) {
    const loss = twoPasses(logits, plain, { consistency, lambda: 2 })(model, net.batch, context(TOKENS, { draw: stochastic() }));
    const drawn = names(loss);
    expect(new Set(drawn).size).toBe(8); // 2 passes · 2 places · down and up
    const [y1, y2] = [
      model(net.batch, context(TOKENS, { draw: stochastic() })),
      model(net.batch, context(TOKENS, { draw: stochastic(1) })),
    ];
    const expected =
      consistency === 'symmetric' ? plain(y1).add(symmetricKl(y1, y2)) : plain(y1).add(plain(y2)).add(klToMean(y1, y2).mul(2));
    const plan = await engine.compile(engine.store(), { outputs: { loss, expected } });
    const got = await plan.run({}, 5);
    expect(got.loss[0]).toBeCloseTo(got.expected[0]!, 12);
  }
});
