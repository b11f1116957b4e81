// Generation: the cache changes nothing, batches change nothing, growing text compiles nothing, and misuse is explained.
import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { broadcastTo, concat } from '../../core/ops/move.ts';
import { rng } from '../../core/rng.ts';
import { ShapeError } from '../../core/shape.ts';
import { input, leaf, param, paramOf, type Tensor } from '../../core/tensor.ts';
import { context, shifted, withKeys, withTokens } from '../../nn/context.ts';
import { decoder, llama } from '../../nn/decoder.ts';
import { bert, encoder } from '../../nn/encoder.ts';
import { decoding, generate } from '../../nn/generate.ts';
import { classifier } from '../../nn/heads.ts';
import { type Layer, layer, type Model } from '../../nn/layer.ts';
import { params, substitute } from '../../nn/tree.ts';
import { apart, DECODERS, lively, randomRows, read, SIZES, tiny } from './models.ts';

const V = SIZES.vocabulary;

/** Prompt tuning in miniature: p vectors in front of the text, inside the trunk. */
const prompted = (model: Model, p: number, seed: number): Model =>
  substitute(model, 'trunk', (base) => {
    const prompt = leaf(rng(seed).normal(p * SIZES.width, 0.7), [1, p, SIZES.width]);
    return layer('trunk', { inner: base, prompt }, (f) => (h, ctx) => {
      if (ctx.cache?.filled) return f.inner(h, shifted(ctx, p));
      const all = concat([broadcastTo(f.prompt, h.shape.with(1, p)), h], 1);
      return f.inner(all, withTokens(ctx, p)).slice(1, p);
    });
  });

/** Deep prompts in miniature: the second block alone gets p more tokens, so that layers fill their caches differently. */
const deepPrompted = (model: Model, p: number, seed: number): Model =>
  substitute(model, 'block', (base, path) => {
    if (!path.endsWith('blocks.1')) return null;
    const prompt = leaf(rng(seed).normal(p * SIZES.width, 0.7), [1, p, SIZES.width]);
    return layer('block', { inner: base, prompt }, (f) => (h, ctx) => {
      if (ctx.cache?.filled) return f.inner(h, shifted(ctx, p));
      return f.inner(concat([broadcastTo(f.prompt, h.shape.with(1, p)), h], 1), withTokens(ctx, p)).slice(1, p);
    });
  });

/** Prefix tuning in miniature: p keys and values in front, in every attention, on every pass. */
const prefixed = (model: Model, p: number, seed: number): Model =>
  substitute(model, 'attend', (base, path) => {
    const { kvHeads, headWidth } = base.fields as { kvHeads: number; headWidth: number };
    const table = (name: string): Tensor =>
      leaf(
        rng(seed)
          .split(path)
          .split(name)
          .normal(p * kvHeads * headWidth, 0.7),
        [1, kvHeads, p, headWidth],
      );
    return layer('attend', { inner: base as Layer<'attend'>, k: table('k'), v: table('v') }, (f) => (q, k, v, ctx) => {
      const rows = k.shape[0]!;
      const front = (x: Tensor): Tensor => broadcastTo(x, x.shape.with(0, rows));
      return f.inner(q, concat([front(f.k), k], 2), concat([front(f.v), v], 2), withKeys(ctx, p));
    });
  });

/** A method that runs the whole trunk twice, as one that first looks and then acts. */
const twice = (model: Model): Model =>
  substitute(model, 'trunk', (base) => layer('trunk', { inner: base }, (f) => (h, ctx) => f.inner(h.add(f.inner(h, ctx).mul(0.3)), ctx)));

const WRAPPERS: Readonly<Record<string, (m: Model, seed: number) => Model>> = {
  bare: (m) => m,
  prompt: (m, s) => prompted(m, 3, s),
  'deep prompt': (m, s) => deepPrompted(m, 2, s),
  prefix: (m, s) => prefixed(m, 2, s),
  'prompt and prefix': (m, s) => prefixed(prompted(m, 2, s), 3, s),
  'two passes': (m) => twice(m),
};

/** Next-token logits after `text`, without any cache. */
const fresh = async (model: Model, text: readonly number[]): Promise<number[]> => (await read(model, [text]))[0]!.slice(-V);
const largest = (x: ArrayLike<number>): number => Array.from(x).reduce((b, v, i) => (v > x[b]! ? i : b), 0);

describe('a cache changes nothing', () => {
  const runs = { numRuns: 2 };
  for (const name of Object.keys(DECODERS))
    for (const [how, wrap] of Object.entries(WRAPPERS))
      test(`${name}, ${how}: each step's logits are those of a full forward pass`, () =>
        fc.assert(
          fc.asyncProperty(fc.nat(), fc.integer({ min: 1, max: 6 }), async (seed, length) => {
            const model = wrap(tiny(name, seed), seed);
            const [text] = randomRows(seed, 1, length + 3);
            const engine = float64();
            const d = await decoding(model, [text!.slice(0, length)], { engine, tokens: 4 });
            for (let n = length; ; n++) {
              expect(apart(d.logits, await fresh(model, text!.slice(0, n)))).toBeLessThan(1e-10);
              if (n === length + 3) break;
              await d.advance([text![n]!]);
            }
            d.close();
          }),
          runs,
        ));

  test('greedy text is the text of full forward passes', async () => {
    for (const [how, wrap] of Object.entries(WRAPPERS)) {
      const model = wrap(tiny('llama grouped', 7), 7);
      const prompt = [3, 1, 4];
      const text = [...prompt];
      for (let n = 0; n < 6; n++) text.push(largest(await fresh(model, text)));
      expect(await generate(model, prompt, { engine: float64(), tokens: 6, temperature: 0 }), how).toEqual(text.slice(3));
    }
  });
});

describe('batches', () => {
  test('prompts of different lengths get what each gets alone', () =>
    fc.assert(
      fc.asyncProperty(
        fc.nat(),
        fc.constantFrom(...Object.keys(DECODERS)),
        fc.constantFrom(...Object.keys(WRAPPERS)),
        async (seed, name, how) => {
          const model = WRAPPERS[how]!(tiny(name, seed), seed);
          const prompts = [1, 5, 3].map((n, k) => randomRows(seed + k, 1, n)[0]!);
          const engine = float64();
          const texts = await generate(model, prompts, { engine, tokens: 4, temperature: 0 });
          for (const [row, p] of prompts.entries())
            expect(texts[row]).toEqual(await generate(model, p, { engine, tokens: 4, temperature: 0 }));
        },
      ),
      { numRuns: 6 },
    ));

  test('a row that met its stop token ends there; the others go on as if alone', async () => {
    const model = tiny('gpt2', 5);
    const prompts = [[1, 2, 3], [4], [7, 7]];
    const engine = float64();
    const free = await generate(model, prompts, { engine, tokens: 6, temperature: 0 });
    const stop = free[0]![2]!; // some row will meet it
    const expected = free.map((t) => (t.includes(stop) ? t.slice(0, t.indexOf(stop)) : t));
    const seen: number[][] = prompts.map(() => []);
    const texts = await generate(model, prompts, {
      engine,
      tokens: 6,
      temperature: 0,
      stop: [stop],
      onToken: (t, row) => seen[row]!.push(t),
    });
    expect(texts).toEqual(expected);
    expect(seen).toEqual(expected);
  });
});

describe('plans', () => {
  test('growing text compiles nothing: one plan for the prompt, one for all steps; a second text of like length none', async () => {
    const model = tiny('llama', 1);
    const engine = float64();
    const text = await generate(model, [1, 2, 3], { engine, tokens: 12, temperature: 0 });
    expect(text.length).toBe(12);
    const { plansCompiled, kernelsCompiled } = engine.stats;
    expect(plansCompiled).toBe(2);
    await generate(model, [5, 6, 7, 8, 9], { engine, tokens: 10 });
    expect(engine.stats.plansCompiled).toBe(2);
    expect(engine.stats.kernelsCompiled).toBe(kernelsCompiled);
  });

  test('with a longer text than a bucket, one more pair of plans', async () => {
    const model = lively(decoder(llama({ ...SIZES, layers: 1, positions: 64 }), rng(2)), 2);
    const engine = float64();
    await generate(model, [1], { engine, tokens: 4 });
    await generate(model, randomRows(3, 1, 17)[0]!, { engine, tokens: 4 });
    expect(engine.stats.plansCompiled).toBe(4);
    await generate(model, randomRows(4, 1, 20)[0]!, { engine, tokens: 9 });
    expect(engine.stats.plansCompiled).toBe(4);
  });

  test("a trainer's store gives the trained values and keeps nothing of the cache", async () => {
    const model = tiny('gpt2', 1);
    const other = tiny('gpt2', 2);
    const engine = float64();
    const store = engine.store();
    const theirs = [...params(other).keys()];
    await store.write(new Map([...params(model).keys()].map((p, k) => [p, theirs[k]!.value])));
    const o = { engine, tokens: 5, temperature: 0 };
    const wanted = await generate(other, [1, 2], o);
    const forget = vi.spyOn(store, 'forget');
    expect(await generate(model, [1, 2], { ...o, store })).toEqual(wanted);
    expect(await generate(model, [1, 2], { ...o, store })).toEqual(wanted);
    expect(await generate(model, [1, 2], o)).not.toEqual(wanted);
    expect(forget.mock.calls.map(([slots]) => [...slots].map((p) => p.shape))).toEqual([0, 1].map(() => Array(4).fill([1, 2, 16, 4])));
  });
});

describe('the end of the positions', () => {
  const engine = float64();
  test('as many tokens as fit can be made, and the last equals a full pass', async () => {
    for (const [how, p] of [
      ['bare', 0],
      ['prompt', 3],
      ['prefix', 0],
    ] as const) {
      const model = WRAPPERS[how]!(tiny('gpt2', 3), 3);
      const length = 20 - p;
      const [prompt] = randomRows(1, 1, length);
      const text = await generate(model, prompt!, { engine, tokens: 5, temperature: 0 });
      expect(text.length).toBe(5);
      expect(text[4]).toBe(largest(await fresh(model, [...prompt!, ...text.slice(0, 4)])));
      await expect(generate(model, prompt!, { engine, tokens: 6 })).rejects.toThrow(/1 too many.*24 positions.*at most 5 tokens/);
    }
  });
  test.each([1, 5, 11])('a method that takes %i positions and adds no token: what fits is found by asking', async (p) => {
    const model = substitute(tiny('gpt2', 3), 'trunk', (base) =>
      layer('trunk', { inner: base }, (f) => (h, ctx) => {
        if (h.shape[1]! + p > SIZES.positions) throw new ShapeError(`${h.shape[1]} tokens and ${p} positions are too many`);
        return f.inner(h, shifted(ctx, p));
      }),
    );
    const [prompt] = randomRows(1, 1, 10);
    const fits = SIZES.positions - p - 10 + 1;
    const text = await generate(model, prompt!, { engine, tokens: fits, temperature: 0 });
    expect(text.at(-1)).toBe(largest(await fresh(model, [...prompt!, ...text.slice(0, -1)])));
    await expect(generate(model, prompt!, { engine, tokens: fits + 1 })).rejects.toThrow(
      `1 too many: this model has 24 positions, ${p} of them taken by a prompt or prefix`,
    );
  });
  test('a prompt that does not fit at all', async () => {
    const [prompt] = randomRows(1, 1, 30);
    await expect(generate(prompted(tiny('gpt2', 3), 3, 1), [[1], prompt!], { engine, tokens: 2 })).rejects.toThrow(
      'generate: prompt 1 of 30 tokens and 2 new ones are 10 too many: this model has 24 positions, 3 of them taken by a prompt or prefix. Drop the first 10 tokens of the prompt',
    );
  });
  test('a sequence longer than the model is refused by the model itself', () => {
    const [long] = randomRows(1, 1, 25);
    expect(() => tiny('llama', 1)({ ids: leaf(long!, [1, 25]) }, context(25))).toThrow(/25 tokens.*24 positions/);
  });
});

describe('misuse', () => {
  const engine = float64();
  const model = tiny('gpt2', 1);
  const o = { engine, tokens: 2 };
  test.each([
    ['an empty prompt', [] as number[], /prompt 0 is empty/],
    ['an id past the vocabulary', [1, 11], /has 11 at place 1.*0 … 10/],
    ['a negative id', [-1], /has -1 at place 0/],
    ['half an id', [0.5], /has 0.5 at place 0/],
  ])('%s', async (_, prompt, message) => {
    await expect(generate(model, prompt, o)).rejects.toThrow(message);
  });
  test('a model that is no language model', async () => {
    await expect(generate(classifier(model, { classes: 3 }, rng(0)), [1, 2], o)).rejects.toThrow(/answers \[1, 3\], not logits/);
    await expect(generate(encoder(bert(SIZES), rng(0)), [1, 2], o)).rejects.toThrow(/is an encoder.*needs a decoder/);
  });
  test('a model that answers for all tokens although one is asked for', async () => {
    const all = layer(
      'model',
      { base: model },
      (f) =>
        (batch, { only: _, ...ctx }) =>
          f.base(batch, ctx),
    );
    expect(await generate(all, [1, 2, 3], { ...o, temperature: 0 })).toEqual(await generate(model, [1, 2, 3], { ...o, temperature: 0 }));
  });
  test('feeding what no method reads', async () => {
    await expect(generate(model, [1], { ...o, feed: { route: [0] } })).rejects.toThrow(/fed route, which this model does not read/);
  });
  test('an empty prompt among others', async () => {
    await expect(generate(model, [[1], []], o)).rejects.toThrow(/prompt 1 is empty/);
  });
  test.each([
    [{ tokens: 0 }, /tokens is 0/],
    [{ temperature: -1 }, /temperature is -1/],
    [{ topK: 0 }, /topK is 0/],
    [{ topP: 0 }, /topP is 0/],
    [{ topP: 1.5 }, /topP is 1.5/],
  ])('%o', async (bad, message) => {
    await expect(generate(model, [1], { ...o, ...bad })).rejects.toThrow(message);
  });
});

test('inputs of methods are fed on every pass, and read by name', async () => {
  const engine = float64();
  const model = tiny('gpt2', 6);
  const switched = substitute(model, 'trunk', (base) =>
    layer('trunk', { inner: base }, (f) => (h, ctx) => f.inner(h, ctx).mul(input('sign', []))),
  );
  const o = { engine, tokens: 5, temperature: 0 };
  expect(await generate(switched, [1, 2], { ...o, feed: { sign: [1] } })).toEqual(await generate(model, [1, 2], o));
  expect(await generate(switched, [1, 2], { ...o, feed: { sign: [-1] } })).not.toEqual(await generate(model, [1, 2], o));
});

test('a forgotten parameter has its starting value again', async () => {
  const p = paramOf(param([1, 2], [2]))!;
  const store = float64().store();
  await store.write(new Map([[p, Float32Array.of(3, 4)]]));
  expect([...(await store.read([p])).get(p)!]).toEqual([3, 4]);
  store.forget([p]);
  expect([...(await store.read([p])).get(p)!]).toEqual([1, 2]);
});

describe('seeds', () => {
  const engine = float64();
  const model = tiny('gpt2', 4);
  const text = (seed: number, more: object = {}): Promise<number[]> =>
    generate(model, [1, 2], { engine, tokens: 8, seed, temperature: 3, ...more });
  test('the same seed, the same text; another seed, another', async () => {
    expect(await text(1)).toEqual(await text(1));
    expect(await text(1)).not.toEqual(await text(2));
  });
  test('one likely token (topK 1, or a tiny topP) is greedy whatever the seed', async () => {
    const greedy = await text(1, { temperature: 0 });
    expect(await text(1, { topK: 1 })).toEqual(greedy);
    expect(await text(2, { topP: 1e-9 })).toEqual(greedy);
  });
  test('rows of a batch draw apart: equal prompts give different texts, and adding a row changes no other', async () => {
    const o = { engine, tokens: 8, temperature: 3 };
    const [a, b] = await generate(
      model,
      [
        [1, 2],
        [1, 2],
      ],
      o,
    );
    expect(a).not.toEqual(b);
    expect(await generate(model, [[1, 2]], o)).toEqual([a]);
  });
});
