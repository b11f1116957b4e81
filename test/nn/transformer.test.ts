// Laws of the networks: causality, padding, grouped heads, rotary positions, tied heads.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { crossEntropy } from '../../core/ops/fused.ts';
import { concat } from '../../core/ops/move.ts';
import { rng } from '../../core/rng.ts';
import { leaf, param, paramOf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { decoder, gpt2, languageModel, llama } from '../../nn/decoder.ts';
import { embedding } from '../../nn/embedding.ts';
import { bert, encoder, roberta } from '../../nn/encoder.ts';
import { type Model, ofKind } from '../../nn/layer.ts';
import { linear, weight } from '../../nn/linear.ts';
import { params, substitute, tensors } from '../../nn/tree.ts';
import { apart, DECODERS, ids, lively, randomRows, read, SIZES, tiny } from './models.ts';

const decoders = fc.constantFrom(...Object.keys(DECODERS));
const ENCODERS = { bert: bert(SIZES), roberta: roberta(SIZES), 'no types': bert({ ...SIZES, types: 0 }) };
const encoders = fc.constantFrom(...(Object.keys(ENCODERS) as (keyof typeof ENCODERS)[]));
const tinyEncoder = (name: keyof typeof ENCODERS, seed: number): Model => lively(encoder(ENCODERS[name], rng(seed)), seed);
const runs = { numRuns: 8 };
const engine = float64();

describe('who sees whom', () => {
  test('decoder: changing token j changes no logits before j, and changes those at j', () =>
    fc.assert(
      fc.asyncProperty(fc.nat(), decoders, fc.integer({ min: 0, max: 5 }), async (seed, name, j) => {
        const [row] = randomRows(seed, 1, 6);
        const other = row!.with(j, (row![j]! + 1) % SIZES.vocabulary);
        const [a, b] = await read(tiny(name, seed), [row!, other]);
        const [before, at] = [j * SIZES.vocabulary, (j + 1) * SIZES.vocabulary];
        expect(a!.slice(0, before)).toEqual(b!.slice(0, before));
        expect(apart(a!.slice(before, at), b!.slice(before, at))).toBeGreaterThan(1e-6);
      }),
      runs,
    ));
  test('encoder: every token sees every token', () =>
    fc.assert(
      fc.asyncProperty(fc.nat(), encoders, fc.integer({ min: 0, max: 4 }), async (seed, name, j) => {
        const [row] = randomRows(seed, 1, 5);
        const [a, b] = await read(tinyEncoder(name, seed), [row!, row!.with(j, (row![j]! + 1) % SIZES.vocabulary)]);
        for (let t = 0; t < 5; t++) expect(apart(a!.slice(t * 8, t * 8 + 8), b!.slice(t * 8, t * 8 + 8))).toBeGreaterThan(1e-9);
      }),
      runs,
    ));
  const padded = async (model: Model, seed: number, width: number): Promise<void> => {
    const [row] = randomRows(seed, 1, 4);
    const [whole] = await read(model, [row!]);
    const junk = randomRows(seed + 1, 2, 3);
    const mask = [1, 1, 1, 1, 0, 0, 0];
    for (const p of await read(
      model,
      junk.map((x) => [...row!, ...x]),
      {},
      [mask, mask],
    ))
      expect(apart(p.slice(0, 4 * width), whole!)).toBeLessThan(1e-12);
  };
  test('encoder: padding of any content changes no real token', () =>
    fc.assert(
      fc.asyncProperty(fc.nat(), encoders, async (seed, name) => padded(tinyEncoder(name, seed), seed, SIZES.width)),
      runs,
    ));
  test('decoder: nor here', () =>
    fc.assert(
      fc.asyncProperty(fc.nat(), decoders, async (seed, name) => padded(tiny(name, seed), seed, SIZES.vocabulary)),
      runs,
    ));
  test('a row that is all padding stays finite', async () => {
    const rows = randomRows(1, 2, 3);
    for (const y of await read(tinyEncoder('bert', 1), rows, {}, [
      [0, 0, 0],
      [1, 1, 1],
    ]))
      expect(y.every(Number.isFinite)).toBe(true);
  });
});

describe('encoder switches', () => {
  test("RoBERTa's first token takes the position table's row 2; BERT's row 0", async () => {
    for (const [name, first] of [
      ['bert', 0],
      ['roberta', 2],
    ] as const) {
      const model = tinyEncoder(name, 3);
      const table = [...tensors(model)].find(({ path }) => path === 'trunk.positions.weight')!.tensor;
      const loss = model({ ids: ids([[4, 2, 3]]) }, context(3))
        .mul(leaf(rng(1).normal(3 * 8), [3, 8]))
        .sum();
      const g = await engine.read(grad(loss, [table])[0]!);
      const touched = Array.from({ length: table.shape[0]! }, (_, r) => r).filter((r) => g.subarray(r * 8, r * 8 + 8).some((v) => v !== 0));
      expect(touched).toEqual([first, first + 1, first + 2]);
      expect(table.shape[0]).toBe(SIZES.positions + first);
    }
  });
  test('no types is types 0; type 1 differs; types without a table are refused', async () => {
    const model = tinyEncoder('bert', 2);
    const with_ = (types: number[] | null) =>
      engine.read(model({ ids: ids([[1, 2]]), types: types === null ? null : ids([types]) }, context(2)));
    expect([...(await with_(null))]).toEqual([...(await with_([0, 0]))]);
    expect(apart(await with_([0, 1]), await with_(null))).toBeGreaterThan(1e-3);
    expect(() => tinyEncoder('no types', 1)({ ids: ids([[1, 2]]), types: ids([[0, 0]]) }, context(2))).toThrow(/no embedding for them/);
  });
});

describe('heads', () => {
  test('grouped keys are the same network as all heads with the keys repeated', () =>
    fc.assert(
      fc.asyncProperty(fc.nat(), async (seed) => {
        const sizes = { ...SIZES, heads: 4 };
        const grouped = lively(decoder(llama({ ...sizes, kvHeads: 2 }), rng(seed)), seed);
        const values = new Map([...tensors(grouped)].map(({ path, tensor }) => [path, tensor]));
        const twice = (w: Tensor): Tensor => {
          const [k0, k1] = [w.slice(0, 0, 2), w.slice(0, 2, 4)]; // two heads of width 2
          return concat([k0, k0, k1, k1], 0);
        };
        const whole = substitute(decoder(llama(sizes), rng(0)), 'weight', (_, path) => {
          const w = values.get(path)!;
          return weight(/attn\.[kv]\.weight$/.test(path) ? twice(w) : w);
        });
        const rows = randomRows(seed, 2, 5);
        expect(apart((await read(grouped, rows)).flat(), (await read(whole, rows)).flat())).toBeLessThan(1e-12);
      }),
      runs,
    ));
  test('a fused projection is the three projections below one another', async () => {
    const fused = tiny('gpt2 fused', 6);
    const values = new Map([...tensors(fused)].map(({ path, tensor }) => [path, tensor]));
    const apartModel = substitute(decoder(gpt2({ ...SIZES, tied: false }), rng(0)), 'weight', (_, path) => {
      const [, before, part, name] = /^(.*attn\.)([qkv])\.(weight|bias)$/.exec(path) ?? [];
      const at = 'qkv'.indexOf(part ?? 'x') * SIZES.width;
      return weight(part === undefined ? values.get(path)! : values.get(`${before}qkv.${name}`)!.slice(0, at, at + SIZES.width));
    });
    const rows = randomRows(6, 2, 5);
    expect(apart((await read(fused, rows)).flat(), (await read(apartModel, rows)).flat())).toBeLessThan(1e-12);
  });
  test('widths that do not divide are refused with the numbers', () => {
    expect(() => decoder(gpt2({ ...SIZES, heads: 3 }), rng(0))).toThrow(/width 8 does not divide into 3 heads/);
    expect(() => decoder(llama({ ...SIZES, heads: 4, kvHeads: 3 }), rng(0))).toThrow(/4 heads do not divide among 3 key heads/);
    expect(() => encoder(bert({ ...SIZES, heads: 3 }), rng(0))).toThrow(/width 8 does not divide into 3 heads/);
  });
});

describe('rotary positions', () => {
  test('only distances matter: moving all positions leaves the logits', () =>
    fc.assert(
      fc.asyncProperty(fc.nat(), fc.constantFrom('llama', 'llama grouped'), fc.integer({ min: 1, max: 500 }), async (seed, name, by) => {
        const model = tiny(name, seed);
        const rows = randomRows(seed, 1, 5);
        const at = (n: number) => ({
          positions: leaf(
            [0, 1, 2, 3, 4].map((p) => p + n),
            [5],
          ),
        });
        expect(apart((await read(model, rows, at(by))).flat(), (await read(model, rows, at(0))).flat())).toBeLessThan(1e-9);
      }),
      runs,
    ));
  test('distances do matter, and a scale of ½ halves them', async () => {
    const sizes = { ...SIZES, layers: 1 };
    const [plain, half] = [1, 0.5].map((scale) => lively(decoder(llama({ ...sizes, rope: { base: 10000, scale } }), rng(1)), 1));
    const rows = randomRows(1, 1, 5);
    const positions = (step: number) => ({
      positions: leaf(
        [0, 1, 2, 3, 4].map((p) => p * step),
        [5],
      ),
    });
    const logits = async (m: Model, step: number) => (await read(m, rows, positions(step))).flat();
    expect(apart(await logits(plain!, 2), await logits(plain!, 1))).toBeGreaterThan(1e-3);
    expect(apart(await logits(half!, 2), await logits(plain!, 1))).toBeLessThan(1e-12);
  });
});

describe('a tied head', () => {
  const model = tiny('gpt2', 9);
  const batch = { ids: ids(randomRows(9, 2, 4)) };
  const targets = ids(randomRows(10, 2, 4));
  test('is one parameter at two places', () => {
    const places = [...tensors(model)].filter(({ path }) => path === 'embed.weight' || path === 'head.weight');
    expect(places.map((p) => p.path)).toEqual(['embed.weight', 'head.weight']);
    expect(paramOf(places[0]!.tensor)).toBe(paramOf(places[1]!.tensor));
    expect([...params(model).values()].filter((p) => p === 'embed.weight' || p === 'head.weight')).toEqual(['embed.weight']);
  });
  test('has the sum of the gradients of both places', async () => {
    const table = paramOf([...tensors(model)].find(({ path }) => path === 'embed.weight')!.tensor)!;
    const copy = (): Tensor => param(table.value, table.shape);
    const [a, b] = [copy(), copy()];
    const untied = languageModel(embedding(weight(a)), ofKind(model.fields.trunk, 'trunk'), linear(b));
    const loss = (m: Model): Tensor => crossEntropy(m(batch, context(4)), targets);
    const all = [...tensors(model)].find(({ path }) => path === 'head.weight')!.tensor;
    const [g] = grad(loss(model), [all]);
    const [ga, gb] = grad(loss(untied), [a, b]);
    expect(apart(await engine.read(g!), await engine.read(ga!.add(gb!)))).toBeLessThan(1e-12);
    for (const part of [ga!, gb!]) expect((await engine.read(part)).some((v) => Math.abs(v) > 1e-3)).toBe(true);
  });
});

describe('one token of each row', () => {
  test('its logits are those of the whole', () =>
    fc.assert(
      fc.asyncProperty(fc.nat(), decoders, async (seed, name) => {
        const model = tiny(name, seed);
        const rows = randomRows(seed, 3, 5);
        const at = rows.map((_, k) => rng(seed).split(`at${k}`).below(5));
        const whole = await read(model, rows);
        const some = await read(model, rows, { only: leaf(at, [3]) });
        for (const [k, y] of some.entries()) expect(y).toEqual(whole[k]!.slice(at[k]! * SIZES.vocabulary, (at[k]! + 1) * SIZES.vocabulary));
      }),
      runs,
    ));
});
