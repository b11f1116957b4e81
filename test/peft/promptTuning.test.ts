// Prompt tuning: a prompt made of a text's embeddings is that text.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { concat } from '../../core/ops/move.ts';
import { leaf } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { generate } from '../../nn/generate.ts';
import { trainable } from '../../nn/tree.ts';
import { promptTuning } from '../../peft/additive/promptTuning.ts';
import { bertNetwork, gpt2Network, llamaNetwork, networks, numbersOf, perturb, TOKENS, WIDTH } from '../laws/models.ts';
import { apart, rowsOf, trained } from './naive.ts';

const engine = float64();
const text = [3, 1, 4];
const outputs = 11; // vocabulary and classes of the small networks

test.each(networks(11).map((n) => [n.name, n] as const))(
  'a prompt of the embeddings of text t answers as t in front of the text (%s: padding, positions)',
  async (_, net) => {
    const model = (await promptTuning({ length: 3, init: { ids: text } }).prepare(net.base, { engine }))(net.base);
    const front = leaf([...text, ...text], [2, 3]);
    const batch = {
      ids: concat([front, net.batch.ids], 1),
      keyMask: concat([leaf(new Float32Array(6).fill(1), [2, 3]), net.batch.keyMask!], 1),
      ...(net.batch.types ? { types: concat([leaf(new Float32Array(6), [2, 3]), net.batch.types], 1) } : {}),
    };
    const literal = rowsOf(await engine.read(net.base(batch, context(TOKENS + 3)).slice(1, 3)), outputs);
    const prompted = rowsOf(await numbersOf(engine, net, model), outputs);
    expect(prompted).toHaveLength(2 * TOKENS);
    expect(apart(prompted.flat(), literal.flat())).toBeLessThan(1e-12);
    expect(apart(prompted.flat(), await numbersOf(engine, net, net.base))).toBeGreaterThan(1e-2);
  },
);

test.each([gpt2Network(12), llamaNetwork(12)].map((n) => [n.name, n] as const))(
  'generation with its cache continues as from the literal text (%s)',
  async (_, net) => {
    const model = (await promptTuning({ length: 3, init: { ids: text } }).prepare(net.base, { engine }))(net.base);
    const prompts = [[5, 2], [7]];
    const options = { engine, tokens: 5, temperature: 0 };
    const literal = await generate(
      net.base,
      prompts.map((p) => [...text, ...p]),
      options,
    );
    expect(await generate(model, prompts, options)).toEqual(literal);
  },
);

test('ids are repeated or cut to the length; a vocabulary is sampled by the seed among its first ids', async () => {
  const { base } = gpt2Network(13);
  const rows = async (model: typeof base): Promise<number[][]> => rowsOf([...trainable(model).keys()][0]!.value, WIDTH);
  const prompt = async (length: number, ids: number[]): Promise<number[][]> =>
    rows((await promptTuning({ length, init: { ids } }).prepare(base, { engine }))(base));
  const [a, b] = [(await prompt(1, [2]))[0]!, (await prompt(1, [9]))[0]!];
  expect(await prompt(3, [2, 9])).toEqual([a, b, a]);
  expect(await prompt(1, [2, 9])).toEqual([a]);
  const sampled = async (seed: number): Promise<number[][]> =>
    rows((await promptTuning({ length: 8, init: { vocabulary: 4 }, seed }).prepare(base, { engine }))(base));
  const first = await Promise.all([0, 1, 2, 3].map(async (id) => JSON.stringify((await prompt(1, [id]))[0])));
  expect((await sampled(1)).every((r) => first.includes(JSON.stringify(r)))).toBe(true);
  expect(await sampled(1)).toEqual(await sampled(1));
  expect(await sampled(1)).not.toEqual(await sampled(2));
});

test('random starts, count p·d, length 0 is the base bit for bit', async () => {
  const net = gpt2Network(14);
  const values = (init: 'normal' | 'uniform'): Float32Array =>
    [...trainable(promptTuning({ length: 15, init })(net.base)).keys()][0]!.value as Float32Array;
  expect(Math.max(...values('uniform'))).toBeLessThan(0.5);
  expect(Math.max(...values('normal'))).toBeGreaterThan(1.5);
  expect(trained(promptTuning({ length: 7 })(net.base))).toBe(7 * WIDTH);
  const none = promptTuning({ length: 0 })(net.base);
  expect(trained(none)).toBe(0);
  expect(await numbersOf(engine, net, none)).toEqual(await numbersOf(engine, net, net.base));
});

test('two prompts: the later one stands next to the text', async () => {
  const net = llamaNetwork(15);
  const at = async (model: typeof net.base, ids: number[]): Promise<typeof net.base> =>
    (await promptTuning({ length: ids.length, init: { ids } }).prepare(model, { engine }))(model);
  const two = await at(await at(net.base, [6, 2]), [8]);
  const one = await at(net.base, [6, 2, 8]);
  expect(apart(await numbersOf(engine, net, two), await numbersOf(engine, net, one))).toBeLessThan(1e-12);
});

test('a prompt does not make a token see those after it', async () => {
  const net = gpt2Network(16);
  const model = perturb(promptTuning({ length: 3 })(net.base), 1);
  const logits = async (last: number): Promise<number[][]> =>
    rowsOf(await engine.read(model({ ids: leaf([1, 2, 3, last], [1, 4]) }, context(4))), outputs);
  const [a, b] = [await logits(4), await logits(5)];
  expect(a.slice(0, 3)).toEqual(b.slice(0, 3));
  expect(a[3]).not.toEqual(b[3]);
});

test('refused before anything runs: too long, ids outside the vocabulary, unprepared, text beyond the positions', async () => {
  const { base } = bertNetwork(1);
  expect(() => promptTuning({ length: 16 })(base)).toThrow(
    /length 16 at trunk must be a whole number from 0 to 15: this model has 16 positions/,
  );
  expect(() => promptTuning({ length: -1 })(base)).toThrow(/length -1/);
  expect(() => promptTuning({ length: 2, init: { ids: [1] } })(base)).toThrow(/promptTuning: needs numbers from the model/);
  const at = (init: { ids: number[] } | { vocabulary: number }): Promise<unknown> =>
    promptTuning({ length: 2, init }).prepare(base, { engine });
  await expect(at({ ids: [11] })).rejects.toThrow(/init names token 11, but the vocabulary of this model is 0 … 10/);
  await expect(at({ ids: [] })).rejects.toThrow(/at least one token id/);
  await expect(at({ vocabulary: 12 })).rejects.toThrow(/token 11/);
  expect(() => promptTuning({ length: 12 })(base)({ ids: leaf([1, 2, 3, 4, 5], [1, 5]) }, context(5))).toThrow(
    /17 tokens \(prompts included\)/,
  );
});
