// IDPG, DePT and SMoP: prompts that depend on the text, each against its equation row by row.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { context, stochastic } from '../../nn/context.ts';
import { withValues } from '../../nn/freeze.ts';
import { classifier } from '../../nn/heads.ts';
import { BASE, type Layer, layer, type Model } from '../../nn/layer.ts';
import { substitute, trainable } from '../../nn/tree.ts';
import { dept } from '../../peft/additive/dept.ts';
import { idpg } from '../../peft/additive/idpg.ts';
import { promptTuning } from '../../peft/additive/promptTuning.ts';
import { smop } from '../../peft/additive/smop.ts';
import { bertNetwork, gpt2Network, llamaNetwork, numbersOf, perturb, TOKENS, WIDTH } from '../laws/models.ts';
import { affine, apart, own, relu, rowsOf, softmax, trained } from './naive.ts';

const engine = float64();
const net = bertNetwork(1);
const real = [5, 3]; // tokens of the two texts that are not padding

/** What arrives at the trunk and what leaves it, without any prompt: a matrix for each text. */
async function around(model: Model): Promise<{ embedded: number[][][]; answered: number[][][] }> {
  const seen: Tensor[] = [];
  substitute(
    model,
    'trunk',
    (l): Layer<'trunk'> =>
      layer('trunk', { [BASE]: l }, () => (h, c) => {
        seen.push(h, l(h, c));
        return seen[1]!;
      }),
  )(net.batch, context(TOKENS));
  const [embedded, answered] = await Promise.all(seen.map(async (t) => rowsOf(await engine.read(t), WIDTH)));
  const texts = (m: number[][]): number[][][] => [m.slice(0, TOKENS), m.slice(TOKENS)];
  return { embedded: texts(embedded!), answered: texts(answered!) };
}
/** The network with these rows as its prompt, on one of the two texts. */
async function withPrompt(rows: number[][], text: number): Promise<number[]> {
  const m = promptTuning({ length: rows.length })(net.base);
  const y = await numbersOf(engine, net, withValues(m, new Map([[[...trainable(m).keys()][0]!, Float64Array.from(rows.flat())]])));
  return [...y.slice((text * y.length) / 2, ((text + 1) * y.length) / 2)];
}
const meanOf = (rows: number[][]): number[] => rows[0]!.map((_, j) => rows.reduce((s, r) => s + r[j]! / rows.length, 0));

test.each(['first', 'mean', 'embedding'] as const)('IDPG reads the %s of each text and makes its prompt', async (reads) => {
  const model = perturb(idpg({ length: 2, hidden: 3, reads })(net.base), 2);
  const p = await own(engine, model, 'trunk.idpg');
  const { embedded, answered } = await around(net.base);
  const y = await numbersOf(engine, net, model);
  for (const k of [0, 1]) {
    const m = reads === 'first' ? answered[k]![0]! : meanOf((reads === 'mean' ? answered : embedded)[k]!.slice(0, real[k]));
    const hidden = affine([m], p.W1!, p.b1![0])[0]!.map(relu);
    const rows = rowsOf(affine([hidden], p.W2!, p.b2![0])[0]!, WIDTH);
    expect(apart(y.slice((k * y.length) / 2, ((k + 1) * y.length) / 2), await withPrompt(rows, k))).toBeLessThan(1e-11);
  }
  expect(trained(model)).toBe(WIDTH * 3 + 3 + 4 * 2 * WIDTH);
});

test('SMoP gives each text the prompt its router prefers, times how much', async () => {
  const model = perturb(smop({ experts: 3, length: 2 })(net.base), 3);
  const p = await own(engine, model, 'trunk.smop');
  const { embedded } = await around(net.base);
  const y = await numbersOf(engine, net, model);
  for (const k of [0, 1]) {
    const g = softmax(affine([meanOf(embedded[k]!.slice(0, real[k]))], p.router!)[0]!);
    const best = g.indexOf(Math.max(...g));
    const rows = rowsOf(p.P![best]!, WIDTH).map((r) => r.map((v) => v * g[best]!));
    expect(apart(y.slice((k * y.length) / 2, ((k + 1) * y.length) / 2), await withPrompt(rows, k))).toBeLessThan(1e-12);
  }
  expect(trained(model)).toBe(3 * 2 * WIDTH + 3 * WIDTH);
});

test('SMoP: routes start orthonormal; noise and balance are for training', async () => {
  const model = smop({ experts: 3, length: 2, balance: 0.5 })(net.base);
  const router = (await own(engine, model, 'trunk.smop')).router!;
  expect(
    apart(
      router.flatMap((a) => router.map((b) => a.reduce((s, v, j) => s + v * b[j]!, 0))),
      [1, 0, 0, 0, 1, 0, 0, 0, 1],
    ),
  ).toBeLessThan(1e-6);
  const aux: number[] = [];
  const losses: Tensor[] = [];
  model(net.batch, context(TOKENS, { aux: (_, l) => losses.push(l) }));
  for (const l of losses) aux.push(await engine.item(l));
  expect(aux).toHaveLength(1);
  expect(aux[0]!).toBeGreaterThan(0);
  const y = await engine.compile(engine.store(), { outputs: { y: model(net.batch, context(TOKENS, { draw: stochastic() })) } });
  expect((await y.run({}, 1)).y.slice()).not.toEqual((await y.run({}, 2)).y.slice());
});

test('a prompt made of the whole text is refused in a language model, and welcome under a classifier', () => {
  for (const m of [idpg({ length: 2 }), smop({ length: 2 })]) {
    expect(() => m(gpt2Network(1).base)).toThrow(/each token would see those after it.*text classifier/);
    const reads = m(classifier(llamaNetwork(1).base, { classes: 2 }, rng(1)));
    expect(reads({ ids: leaf([1, 2, 3, 4], [2, 2]) }, context(2)).shape).toEqual([2, 2]);
  }
  expect(() => smop({ length: 2, experts: 9 })(net.base)).toThrow(/smop: experts 9 at trunk, but only 8/);
});

test('DePT: a short prompt, and α/√r·A B added to the embedded text by position', async () => {
  const model = perturb(dept({ length: 2, rank: 2, tokens: 7, alpha: 3 })(net.base), 4);
  const p = await own(engine, model, 'trunk.dept');
  const columns = (m: number[][]): number[][] => m[0]!.map((_, j) => m.map((r) => r[j]!));
  const AB = affine(p.A!, columns(p.B!)).map((row) => row.map((v) => (v * 3) / Math.SQRT2));
  const added = leaf(Float64Array.from([...AB.slice(0, TOKENS), ...AB.slice(0, TOKENS)].flat()), [2, TOKENS, WIDTH]);
  const m = promptTuning({ length: 2 })(net.base);
  const short = withValues(m, new Map([[[...trainable(m).keys()][0]!, Float64Array.from(p.P!.flat())]]));
  const expected = substitute(short, 'trunk', (l): Layer<'trunk'> => layer('trunk', { [BASE]: l }, () => (h, c) => l(h.add(added), c)));
  expect(apart(await numbersOf(engine, net, model), await numbersOf(engine, net, expected))).toBeLessThan(1e-12);
});

test('DePT: the paper’s sizes cost what a prompt of 100 does; A and B have a rate of their own; longer texts are refused', () => {
  const { train } = dept.method.count([{ dim: () => 768 } as never], { length: 60, rank: 30, tokens: 256, alpha: 8, matrixRate: 1 });
  expect(train).toBe(60 * 768 + 30 * (256 + 768));
  expect(train).toBe(100 * 768);
  const rates = [...trainable(dept({ length: 2, rank: 2, tokens: 7, matrixRate: 0.01 })(net.base)).keys()].map((q) => q.lr);
  expect(rates).toEqual([1, 0.01, 0.01]);
  expect(() => dept({ length: 2, rank: 2, tokens: 4 })(net.base)(net.batch, context(TOKENS))).toThrow(
    /5 tokens, but dept has updates for 4/,
  );
  expect(() => dept({ length: 2, rank: 9 })(net.base)).toThrow(/rank 9 at trunk must be at most 8/);
});
