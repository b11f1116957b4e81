// InfoPrompt: its prompt, its bottleneck and its three losses by hand, and what it refuses.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { crossEntropy } from '../../core/ops/fused.ts';
import { leaf, stateOf, type Tensor, topological } from '../../core/tensor.ts';
import { context, stochastic } from '../../nn/context.ts';
import { withValues } from '../../nn/freeze.ts';
import { ofKind } from '../../nn/layer.ts';
import { trainable } from '../../nn/tree.ts';
import { infoPrompt } from '../../peft/additive/infoPrompt.ts';
import { promptTuning } from '../../peft/additive/promptTuning.ts';
import { promptOf } from '../../peft/additive/spot.ts';
import { bertNetwork, gpt2Network, perturb, TOKENS, WIDTH } from '../laws/models.ts';
import { affine, apart, each, type Matrix, own, rowsOf, softmax, trained } from './naive.ts';

const engine = float64();
const net = bertNetwork(40);
const MASK = 10;
const ids = leaf([3, 1, 10, 4, 2, 5, 10, 6, 0, 0], [2, TOKENS]);
const batch = { ids, keyMask: leaf([1, 1, 1, 1, 1, 1, 1, 1, 0, 0], [2, TOKENS]) };
const [real, at] = [
  [5, 3],
  [2, 1],
];
const mean = (rows: Matrix): number[] => rows[0]!.map((_, j) => rows.reduce((s, r) => s + r[j]! / rows.length, 0));
const dot = (a: readonly number[], b: readonly number[]): number => a.reduce((s, v, i) => s + v * b[i]!, 0);
const erf = (x: number): number => {
  // Maclaurin series: enough for the small numbers here
  const terms = Array.from({ length: 60 }, (_, k) => k).reduce<[number, number]>(
    ([sum, t], k) => [sum + t / (2 * k + 1), (-t * x * x) / (k + 1)],
    [0, x],
  );
  return (2 / Math.sqrt(Math.PI)) * terms[0];
};
const gelu = (v: number): number => 0.5 * v * (1 + erf(v / Math.SQRT2));

test('InfoPrompt: classes through the bottleneck at [MASK], and head, representation and prior losses in training', async () => {
  const o = { words: [7, 8, 9], mask: MASK, length: 2, latent: 3, gamma: 0.5, beta: 0.25, prior: 2 };
  const fresh = await infoPrompt(net.base, engine, o);
  expect(trained(fresh)).toBe(3 * (WIDTH * 3 + 3) + 4 * 2 * WIDTH + WIDTH * WIDTH + WIDTH + 3 * WIDTH + WIDTH + 3 * WIDTH);
  const model = perturb(fresh, 41);
  const t = await own(engine, model, 'infoPrompt');
  const head = rowsOf((await engine.read(model.fields.head as Tensor)).slice(), WIDTH);
  const layer = (name: string): [Matrix, number[]] => [t[`${name}.0`]!, t[`${name}.1`]!.flat()];
  const through = (x: Matrix, name: string): number[][] => affine(x, ...layer(name));
  const states = async (base: typeof net.base, k: number): Promise<number[][]> => {
    const seen: Tensor[] = [];
    const { trunk, embed, types } = base.fields;
    const c = context(TOKENS, { keyMask: batch.keyMask });
    const x = ofKind(embed, 'embedding')(ids, c).add(ofKind(types, 'embedding')(leaf(new Float32Array(2 * TOKENS), [2, TOKENS]), c));
    seen.push(ofKind(trunk, 'trunk')(x, c));
    return rowsOf((await engine.read(seen[0]!)).slice(), WIDTH).slice(k * TOKENS, (k + 1) * TOKENS);
  };
  const aux: Record<string, Tensor> = {};
  const random = model(batch, context(TOKENS, { draw: stochastic(), aux: (name, l) => (aux[name] = l) }));
  const quietly = (await engine.read(model(batch, context(TOKENS)))).slice();
  const names = topological([random, ...Object.values(aux)]).flatMap(({ source: f, shape }) =>
    f.kind === 'input' ? [[f.name, shape] as const] : [],
  );
  const feed = Object.fromEntries(names.map(([name, shape]) => [name, new Float64Array(shape.reduce((a, v) => a * v, 1))]));
  expect(names.length).toBe(3);

  const expected = { head: 0, representation: 0, prior: 0 };
  const embedded = rowsOf((await engine.read(ofKind(net.base.fields.embed, 'embedding')(ids, context(TOKENS)))).slice(), WIDTH);
  for (const k of [0, 1]) {
    const plain = await states(net.base, k);
    const P = rowsOf(through(each(through([plain[0]!], 'down'), gelu), 'up')[0]!, WIDTH);
    const m = promptTuning({ length: 2 })(net.base);
    const after = await states(withValues(m, new Map([[promptOf(m), Float64Array.from(P.flat())]])), k);
    const latent = (h: number[][]): { mean: number[]; log: number[] } => ({
      mean: through([h[at[k]!]!], 'mean')[0]!,
      log: through([h[at[k]!]!], 'spread')[0]!,
    });
    const [q, own] = [latent(plain), latent(after)];
    const out = (z: number[]): number[] => through([z], 'out')[0]!;
    const logits = affine([out(own.mean)], head)[0]!;
    expect(apart(quietly.slice(k * 3, k * 3 + 3), logits)).toBeLessThan(1e-11);
    const H = mean(head);
    const scores = [mean(P), ...embedded.slice(k * TOKENS, k * TOKENS + real[k]!)].map((x) => dot(x, H) / Math.sqrt(WIDTH));
    expected.head += (0.5 * -Math.log(softmax(scores)[0]!)) / 2;
    const c = mean(through(P, 'context'));
    const pairs = [own.mean, ...Array<number[]>(8).fill(q.mean)].map((z) => dot(out(z), c) / Math.sqrt(WIDTH)); // no noise: all others alike
    expected.representation += (0.25 * -Math.log(softmax(pairs)[0]!)) / 2;
    for (const { mean: mu, log } of [q, own])
      for (const [j, v] of mu.entries()) {
        const s = Math.min(Math.max(log[j]!, -2), 10);
        expected.prior += (2 * (0.5 * Math.exp(2 * s) + 0.5 * v * v - s - 0.5)) / 6;
      }
  }
  const losses = { headLoss: aux.infoPromptHead!, representation: aux.infoPromptRepresentation!, prior: aux.infoPromptPrior! };
  const plan = await engine.compile(engine.store(), { outputs: { random, ...losses } });
  const got = await plan.run(feed);
  expect(apart(got.random, quietly)).toBeLessThan(1e-12); // no noise
  expect(got.headLoss[0]).toBeCloseTo(expected.head, 9);
  expect(got.representation[0]).toBeCloseTo(expected.representation, 9);
  expect(got.prior[0]).toBeCloseTo(expected.prior, 9);
  expect(apart((await plan.run({}, 1)).random.slice(), (await plan.run({}, 2)).random)).toBeGreaterThan(1e-6);
  const total = Object.values(losses).reduce((a, l) => a.add(l), crossEntropy(random, leaf([0, 2], [2])));
  const all = [...trainable(model)];
  const grads = grad(
    total,
    all.map(([q]) => stateOf(q)),
  );
  const hears = await (await engine.compile(engine.store(), { outputs: Object.fromEntries(grads.map((g, i) => [`g${i}`, g])) })).run({}, 3);
  for (const [i, [, path]] of all.entries()) expect(Math.max(...hears[`g${i}`]!.map(Math.abs)), path).toBeGreaterThan(1e-12);
  expect([...trainable(model).values()].every((path) => path.startsWith('infoPrompt') || path === 'head')).toBe(true);
});

test('InfoPrompt refuses language models, one class and no weights below zero', async () => {
  await expect(infoPrompt(gpt2Network(1).base, engine, { words: [1, 2], mask: 3 })).rejects.toThrow(
    /infoPrompt: it reads the class where a masked word/,
  );
  await expect(infoPrompt(net.base, engine, { words: [1], mask: 3 })).rejects.toThrow(/one for each of two or more classes/);
  await expect(infoPrompt(net.base, engine, { words: [1, 2], mask: 3, beta: -1 })).rejects.toThrow(/beta -1/);
});
