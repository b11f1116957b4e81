// Heads: how a text becomes one vector, whose padding does not count, on a backbone that is shared and keeps its names.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { crossEntropy } from '../../core/ops/fused.ts';
import { rng } from '../../core/rng.ts';
import { leaf, stateOf } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { decoder, gpt2 } from '../../nn/decoder.ts';
import { bert, encoder } from '../../nn/encoder.ts';
import { freeze } from '../../nn/freeze.ts';
import { classifier, type Pool, pool, tagger } from '../../nn/heads.ts';
import { layer, type Model, ofKind } from '../../nn/layer.ts';
import { params, tensors, trainable } from '../../nn/tree.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { apart, ids, lively, randomRows, read, SIZES } from './models.ts';

const engine = float64();
const anEncoder = (seed: number): Model => lively(encoder(bert(SIZES), rng(seed)), seed);
const aDecoder = (seed: number): Model => lively(decoder(gpt2(SIZES), rng(seed)), seed);
const pools = fc.constantFrom<Pool[]>('first', 'mean', 'last');

describe('pool', () => {
  const h = leaf(rng(1).normal(2 * 4 * 3), [2, 4, 3]);
  const at = async (row: number, t: number): Promise<number[]> => [
    ...(await engine.read(h)).slice((row * 4 + t) * 3, (row * 4 + t + 1) * 3),
  ];
  const pooled = async (mask: number[][] | null, how: Pool): Promise<number[]> => [
    ...(await engine.read(pool(h, mask === null ? null : ids(mask), how))),
  ];
  const mask = [
    [1, 1, 0, 0],
    [1, 1, 1, 1],
  ];
  test('first and last are tokens, the last a real one', async () => {
    expect(await pooled(mask, 'first')).toEqual([...(await at(0, 0)), ...(await at(1, 0))]);
    expect(await pooled(mask, 'last')).toEqual([...(await at(0, 1)), ...(await at(1, 3))]);
    expect(await pooled(null, 'last')).toEqual([...(await at(0, 3)), ...(await at(1, 3))]);
    expect(
      await pooled(
        [
          [0, 1, 0, 1],
          [0, 0, 1, 0],
        ],
        'last',
      ),
    ).toEqual([...(await at(0, 3)), ...(await at(1, 2))]);
  });
  test('mean is the mean of the real ones, and 0 where there is none', async () => {
    const [a, b] = [await at(0, 0), await at(0, 1)];
    expect(
      apart(
        (await pooled(mask, 'mean')).slice(0, 3),
        a.map((v, k) => (v + b[k]!) / 2),
      ),
    ).toBeLessThan(1e-12);
    expect(
      apart(
        await pooled(null, 'mean'),
        await pooled(
          [
            [1, 1, 1, 1],
            [1, 1, 1, 1],
          ],
          'mean',
        ),
      ),
    ).toBeLessThan(1e-12);
    expect(
      (
        await pooled(
          [
            [0, 0, 0, 0],
            [1, 1, 1, 1],
          ],
          'mean',
        )
      ).slice(0, 3),
    ).toEqual([0, 0, 0]);
  });
  test('a mask of another size is refused', () => {
    expect(() => pool(h, ids([[1, 1, 1]]), 'mean')).toThrow(/the key mask is \[1,3\], but there are 2 rows of 4 tokens/);
  });
});

describe('classifier', () => {
  test('padding changes no class score', () =>
    fc.assert(
      fc.asyncProperty(fc.nat(), fc.boolean(), pools, async (seed, causal, how) => {
        if (causal && how === 'first') return;
        const model = lively(classifier((causal ? aDecoder : anEncoder)(seed), { classes: 3, pool: how }, rng(seed)), seed + 1);
        const [row, junk] = randomRows(seed, 2, 4);
        const [whole] = await read(model, [row!]);
        const [padded] = await read(model, [[...row!, ...junk!]], {}, [[1, 1, 1, 1, 0, 0, 0, 0]]);
        expect(whole!.length).toBe(3);
        expect(apart(padded!, whole!)).toBeLessThan(1e-12);
      }),
      { numRuns: 12 },
    ));
  test("a decoder's last token and an encoder's first, by default, the latter with a pooler", () => {
    const [d, e] = [classifier(aDecoder(1), { classes: 2 }, rng(0)), classifier(anEncoder(1), { classes: 2 }, rng(0))];
    expect([d.fields.pool, d.fields.pooler]).toEqual(['last', null]);
    expect(e.fields.pool).toBe('first');
    expect([...params(e).values()].slice(-4)).toEqual(['pooler.weight', 'pooler.bias', 'head.weight', 'head.bias']);
    expect(() => classifier(aDecoder(1), { classes: 2, pool: 'first' }, rng(0))).toThrow(/first token of a decoder has seen no other/);
  });
  test('with a pooler it is tanh(pooled·Wᵀ + b)·Hᵀ + c, written out', async () => {
    const model = lively(classifier(anEncoder(2), { classes: 3 }, rng(2)), 3);
    const at = new Map([...tensors(model)].map(({ path, tensor }) => [path, tensor]));
    const rows = randomRows(2, 2, 4);
    const values = async (path: string): Promise<number[]> => [...(await engine.read(at.get(path)!))];
    const [w, b, head, c] = [
      await values('pooler.weight'),
      await values('pooler.bias'),
      await values('head.weight'),
      await values('head.bias'),
    ];
    const dense = (x: number[], m: number[], bias: number[]): number[] =>
      bias.map((v, o) => x.reduce((s, xi, i) => s + xi * m[o * x.length + i]!, v));
    const bare = ofKind(model.fields.trunk, 'trunk');
    const embed = ofKind(model.fields.embed, 'embedding');
    const types = ofKind(model.fields.types, 'embedding');
    const ctx = context(4);
    const h = await engine.read(bare(embed(ids(rows), ctx).add(types(ids(rows).mul(0), ctx)), ctx));
    for (const [k, y] of (await read(model, rows)).entries())
      expect(apart(y, dense(dense([...h.slice(k * 32, k * 32 + 8)], w, b).map(Math.tanh), head, c))).toBeLessThan(1e-12);
  });
  test('shares its backbone with the model it came from, names included, and methods find their places', () => {
    const base = freeze(anEncoder(1));
    const model = classifier(base, { classes: 3 }, rng(1));
    const mine = new Map([...tensors(model)].map(({ path, tensor }) => [path, tensor]));
    for (const { path, tensor } of tensors(base)) expect(mine.get(path), path).toBe(tensor);
    expect([...trainable(model).values()]).toEqual(['pooler.weight', 'pooler.bias', 'head.weight', 'head.bias']);
    const tuned = lora({ rank: 1, where: ['q', 'v'] })(model);
    const places = [...trainable(tuned).values()].filter((p) => p.includes('lora'));
    expect(places).toEqual(
      [0, 1].flatMap((k) => ['q', 'v'].flatMap((n) => ['A', 'B'].map((t) => `trunk.blocks.${k}.attn.${n}.lora.${t}`))),
    );
  });
  test('methods attached beneath come along; attached to the whole model they are refused', () => {
    const tuned = classifier(lora({ rank: 1, where: ['q'] })(freeze(anEncoder(1))), { classes: 2 }, rng(1));
    expect([...trainable(tuned).values()].filter((p) => p.includes('lora')).length).toBe(4);
    const note = (under: Model) => ({
      under,
      method: 'whole',
      field: 'own',
      hooks: {},
      fold: null,
      finish: null,
      byRow: false,
      application: { method: 'whole', config: null, control: null },
    });
    const whole = layer(
      'model',
      { base: aDecoder(1) },
      (f) => f.base,
      (f) => note(f.base),
    );
    expect(() => classifier(whole, { classes: 2 }, rng(0))).toThrow(
      /whole is attached to the whole model; put the head on the model first/,
    );
    const strange = layer(
      'model',
      { embed: aDecoder(1).fields.embed! },
      () =>
        ({ ids }) =>
          ids,
    );
    expect(() => tagger(strange, { classes: 2 }, rng(0))).toThrow(/shows no embed, trunk and causal \(it shows embed\)/);
  });
});

describe('tagger', () => {
  test('one row of scores per token, the linear head of its hidden state', async () => {
    const model = lively(tagger(anEncoder(4), { classes: 5 }, rng(4)), 5);
    const y = model({ ids: ids(randomRows(4, 2, 3)) }, context(3));
    expect(y.shape).toEqual([2, 3, 5]);
  });
  test('a loss over some tokens sends no gradient from the others', async () => {
    const model = lively(tagger(anEncoder(4), { classes: 5 }, rng(4)), 5);
    const head = stateOf([...params(model)].find(([, path]) => path === 'head.bias')![0]);
    const logits = model({ ids: ids(randomRows(4, 1, 3)) }, context(3));
    const g = async (targets: number[]): Promise<number[]> => [
      ...(await engine.read(grad(crossEntropy(logits, ids([targets])), [head])[0]!)),
    ];
    const odds = (await engine.read(logits)).slice(5, 10).map(Math.exp); // of the one token that counts
    const sum = [...odds].reduce((x, y) => x + y, 0);
    const soft = [...odds].map((v) => v / sum);
    expect(
      apart(
        await g([-100, 2, -100]),
        soft.map((v, k) => v - (k === 2 ? 1 : 0)),
      ),
    ).toBeLessThan(1e-12);
  });
});
