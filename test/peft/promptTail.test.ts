// Trainable tokens, CPT and cartridges: against networks that read the same text, and their losses in plain arithmetic.
import { describe, expect, it, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { concat } from '../../core/ops/move.ts';
import { leaf, paramOf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { generate } from '../../nn/generate.ts';
import { tensors, trainable } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { type Fed, trainer } from '../../optim/trainer.ts';
import { cartridge } from '../../peft/additive/cartridge.ts';
import { cartridgesJoined } from '../../peft/additive/cartridgesJoined.ts';
import { cpt } from '../../peft/additive/cpt.ts';
import { cptLoss } from '../../peft/additive/cptLoss.ts';
import { type Conversation, distillation, type Studied, selfStudy } from '../../peft/additive/selfStudy.ts';
import { merge } from '../../peft/merge.ts';
import { trainableTokens } from '../../peft/selective/trainableTokens.ts';
import { gpt2Network, llamaNetwork, numbersOf, perturb, run } from '../laws/models.ts';
import { apart, own, rowsOf, softmax } from './naive.ts';

const engine = float64();
const ids = (rows: readonly (readonly number[])[]): Tensor => leaf(rows.flat(), [rows.length, rows[0]!.length]);
const numbers = async (t: Tensor): Promise<number[]> => Array.from(await engine.read(t));

describe('trainableTokens', () => {
  const net = gpt2Network(3);
  const model = perturb(trainableTokens({ tokens: [4, 2] })(net.base), 4);
  it('replaces the rows named and no bit of the others, in the embedding and in the head tied to it', async () => {
    const merged = merge(model);
    const rows = (await own(engine, model, 'embed.weight'))['trainableTokens.rows']!;
    const [now, then] = [(await own(engine, merged, 'embed')).weight!, (await own(engine, net.base, 'embed')).weight!];
    expect(now).toEqual(then.map((row, k) => (k === 4 ? rows[0] : k === 2 ? rows[1] : row)));
    expect((await own(engine, merged, 'head')).weight).toEqual(now);
    expect(await numbersOf(engine, net, merged)).toEqual(await numbersOf(engine, net, model));
    expect([...trainable(model).keys()]).toHaveLength(1);
  });
  it('leaves a head with a table of its own, unless it is named', async () => {
    const { base } = llamaNetwork(3);
    expect([...trainable(trainableTokens({ tokens: [1] })(base)).values()]).toEqual(['embed.weight.trainableTokens.rows']);
    expect(trainable(trainableTokens({ tokens: [1], where: ['embed.weight', 'head.weight'] })(base)).size).toBe(2);
  });
  it('refuses tokens that are not there, or twice', () => {
    for (const tokens of [[], [11], [-1], [1.5], [2, 2]]) expect(() => trainableTokens({ tokens })(net.base)).toThrow(/trainableTokens: /);
    expect(() => trainableTokens({ where: 'q.bias' })(net.base)).toThrow(/no table of rows/);
  });
});

describe.each([gpt2Network(5), llamaNetwork(5)])('cpt on $name', (net) => {
  const [examples, types] = [
    [3, 1, 4, 1, 5, 9, 2],
    [1, 2, 3, 4, 5, 6, 8],
  ];
  const options = { ids: examples, types, epsilon: 0.7, formatEpsilon: 0.4 };
  const [text, targets] = [
    ids([
      [6, 5, 3],
      [5, 8, 9],
    ]),
    ids([
      [-100, 3, 5],
      [-100, 9, -100],
    ]),
  ]; // prettier-ignore

  it('starts as the network that reads the examples first', async () => {
    const model = (await cpt(options).prepare(net.base, { engine }))(net.base);
    const literal = net.base({ ids: concat([ids([examples, examples]), text], 1) }, context(10)).slice(1, 7);
    expect(apart(await numbers(model({ ids: text }, context(3))), await numbers(literal))).toBeLessThan(1e-13);
  });

  it('moves no answer and nothing further than ε after any step', async () => {
    const model = (await cpt(options).prepare(net.base, { engine }))(net.base);
    await using t = await trainer(model, {
      engine,
      loss: cptLoss(0.9),
      optimizer: adamw({ lr: 0.1 }),
      total: 3,
    });
    const batch = { ids: { data: [6, 5, 3], shape: [1, 3] }, targets: { data: [-100, 3, 5], shape: [1, 3] } };
    for (let k = 0; k < 3; k++) {
      await t.step(batch);
      const { delta } = (await own(engine, await t.model(), 'trunk.cpt')) as { delta: number[][] };
      const root = Math.sqrt(8 / 2048);
      for (const [i, row] of delta.entries()) {
        const [norm, kind] = [Math.hypot(...row), types[i]! % 4];
        if (kind === 0) expect(row.every((v) => v === 0)).toBe(true);
        else expect(norm).toBeLessThanOrEqual((kind === 2 ? 0.7 : 0.4) * root * (1 + 1e-6));
        if (kind !== 0) expect(norm).toBeGreaterThan(0);
      }
    }
  });

  it('asks the answers of the examples too, the earlier ones less', async () => {
    const model = perturb((await cpt(options).prepare(net.base, { engine }))(net.base), 3, 0.1);
    const value = (await numbers(cptLoss(0.5)(model, { ids: text, targets }, context(3))))[0]!;
    const shift = (await own(engine, model, 'trunk.cpt')).delta!;
    expect(shift.some((row) => Math.hypot(...row) > 0)).toBe(true);
    const wanted = [
      [2, 1, 0.25], // the first example's answer, token 1 at place 3, from place 2: the earlier of two, so γ²
      [5, 2, 0.5], // the second's
      [8, 3, 1],
      [9, 5, 1],
    ]; // for row 0: place, token, weight
    const second = [
      [2, 1, 0.25],
      [5, 2, 0.5],
      [8, 9, 1],
    ]; // prettier-ignore
    const whole = await logitsOf(model, 2, 10);
    const cost = (row: number, [place, token, weight]: number[]): number =>
      -weight! * Math.log(softmax(whole[row * 10 + place!]!)[token!]!);
    const all = [...wanted.map((w) => cost(0, w)), ...second.map((w) => cost(1, w))];
    expect(value).toBeCloseTo(all.reduce((s, v) => s + v, 0) / 7, 10);

    // The network on the examples' own rows, moved, and the text: by a prompt that is nothing but text rows.
    async function logitsOf(m: typeof model, rows: number, places: number): Promise<number[][]> {
      const P = [...tensors(m)].find(({ path }) => path === 'trunk.cpt.P')!.tensor;
      const delta = [...tensors(m)].find(({ path }) => path === 'trunk.cpt.delta')!.tensor;
      const embed = net.base.fields.embed as unknown as (t: Tensor, c: unknown) => Tensor;
      const trunk = net.base.fields.trunk as unknown as (t: Tensor, c: unknown) => Tensor;
      const head = net.base.fields.head as unknown as (t: Tensor, c: unknown) => Tensor;
      const c = context(places, { causal: true });
      const front = P.add(delta).reshape(1, 7, 8);
      const h = concat([concat([front, front], 0), embed(text, c)], 1);
      return rowsOf(await numbers(head(trunk(h, c), c)), 11).slice(0, rows * places);
    }
  });
  it('refuses types that do not fit, and a loss without it', () => {
    expect(() => cpt({ ...options, types: [1] })(net.base)).toThrow(/7 ids need as many types/);
    expect(() => cptLoss()(net.base, { ids: text, targets }, context(3))).toThrow(/no cpt/);
  });
});

const text = [3, 1, 4];
const part = (data: readonly number[]): Fed => ({ data, shape: [1, data.length] });
const fed = ({ piece, ids: said }: Conversation): { piece: Fed; ids: Fed } => ({ piece: part(piece), ids: part(said) });
const fromText = (length: number) => cartridge({ length, init: { ids: text } });
describe.each([gpt2Network(21), llamaNetwork(21)])('cartridge on $name', (net) => {
  it('of all of a text answers as with the text in front, and generates so', async () => {
    const model = (await fromText(3).prepare(net.base, { engine }))(net.base);
    const literal = net.base({ ids: concat([ids([text]), ids([[5, 2, 7]])], 1) }, context(6)).slice(1, 3);
    expect(apart(await numbers(model({ ids: ids([[5, 2, 7]]) }, context(3))), await numbers(literal))).toBeLessThan(1e-12);
    const options = { engine, tokens: 4, temperature: 0 };
    expect(await generate(model, [5, 2], options)).toEqual(await generate(net.base, [...text, 5, 2], options));
    const loss = distillation(net.base)(model, { piece: ids([text]), ids: ids([[5, 2, 7]]) }, context(3));
    expect((await numbers(loss))[0]).toBeCloseTo(0, 12);
  });
  it('trains its rows after the first frozen ones', async () => {
    const model = perturb((await fromText(2).prepare(net.base, { engine }))(net.base), 3);
    const p = await own(engine, model, 'trunk.cartridge');
    expect([p['frozen.0']!.length, p['table.0']!.length]).toEqual([1, 1]);
    const fresh = await own(engine, (await fromText(2).prepare(net.base, { engine }))(net.base), 'trunk.cartridge');
    expect(p['frozen.0']).toEqual(fresh['frozen.0']);
  });
  it('the loss is the divergence from the network that has the piece, over real tokens only', async () => {
    const model = perturb((await fromText(2).prepare(net.base, { engine }))(net.base), 3);
    const batch: Studied = {
      piece: ids([text, text]),
      ids: ids([
        [5, 2, 7],
        [8, 0, 0],
      ]),
      keyMask: ids([
        [1, 1, 1],
        [1, 0, 0],
      ]),
    }; // prettier-ignore
    const got = (await numbers(distillation(net.base)(model, batch, context(3))))[0]!;
    const each = async (said: number[]): Promise<number[]> => {
      const teacher = rowsOf(await numbers(net.base({ ids: ids([[...text, ...said]]) }, context(3 + said.length)).slice(1, 3)), 11);
      const student = rowsOf(await numbers(model({ ids: ids([said]) }, context(said.length))), 11);
      return teacher.map((t, i) => softmax(t).reduce((s, p, v) => s + p * Math.log(p / softmax(student[i]!)[v]!), 0));
    };
    const all = [...(await each([5, 2, 7])), ...(await each([8]))];
    expect(got).toBeCloseTo(all.reduce((s, v) => s + v, 0) / 4, 10);
  });
});

test('cartridges joined are read side by side; the first one’s frozen rows stay frozen', async () => {
  const net = llamaNetwork(21);
  const one = perturb((await fromText(2).prepare(net.base, { engine }))(net.base), 1);
  const other = perturb(cartridge({ length: 3, frozen: 2 })(net.base), 2);
  const both = cartridgesJoined(net.base, [one, other]);
  const rows = async (m: typeof one): Promise<number[][]> => {
    const p = await own(engine, m, 'trunk.cartridge');
    return [...(p['frozen.1'] ?? []), ...p['table.1']!];
  };
  expect(await rows(both)).toEqual([...(await rows(one)), ...(await rows(other))]);
  expect((await own(engine, both, 'trunk.cartridge'))['frozen.1']).toHaveLength(1);
  expect(await numbersOf(engine, net, cartridgesJoined(net.base, [one]))).toEqual(await numbersOf(engine, net, one));
  expect(() => cartridgesJoined(net.base, [net.base])).toThrow(/model 0 has no cartridge/);
  expect(() => cartridge({ length: 3, frozen: 3 })(net.base)).toThrow(/frozen 3/);
  expect(() => cartridge({ length: 5, init: { ids: text } })(net.base)).toThrow(/3 tokens has no first 5/);
  expect(paramOf([...tensors(both)].find(({ path }) => path === 'trunk.cartridge.frozen.0')!.tensor)).toBeNull();
  expect(run(net, both).output.shape).toEqual([2, 5, 11]);
});

test('self-study holds conversations about pieces of the text and makes the cartridge answer as the text does', async () => {
  const net = llamaNetwork(21);
  const long = [3, 1, 4, 1, 5, 9, 2, 6];
  const method = cartridge({ length: 2, init: { ids: long } });
  const asked: string[] = [];
  const { model, conversations } = await selfStudy((await method.prepare(net.base, { engine }))(net.base), {
    base: net.base,
    text: long,
    pieceLength: 4,
    seedPrompts: [[7], [8, 0]],
    conversations: 3,
    speak: async (who, before) => {
      asked.push(`${who} ${before.length}`);
      return generate(net.base, before, { engine, tokens: 2, temperature: 0 });
    },
    train: async (m, held, loss) => {
      await using t = await trainer(m, { engine, loss, optimizer: adamw({ lr: 0.05 }), total: 3 });
      const before = await t.evaluate(held.map(fed));
      for (let k = 0; k < 3; k++) await t.step(fed(held[k % held.length]!));
      expect(await t.evaluate(held.map(fed))).toBeLessThan(before);
      return t.model();
    },
  });
  expect(conversations).toHaveLength(3);
  for (const { piece, ids: said } of conversations) {
    expect(long.join()).toContain(piece.join());
    expect(said).toHaveLength(4);
  }
  expect(asked.filter((a) => a === 'answers 6')).toHaveLength(3); // the piece and the question, without the seed prompt
  expect([...trainable(model).keys()].length).toBeGreaterThan(0);
});
