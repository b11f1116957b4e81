// aLoRA, X-LoRA and Arrow against their equations, and against the LoRAs they are made of.
import { describe, expect, it, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { leaf, paramOf, stateOf, type Tensor } from '../../core/tensor.ts';
import { type Cache, type Context, context } from '../../nn/context.ts';
import { decoding } from '../../nn/generate.ts';
import { BASE, layer, type Model } from '../../nn/layer.ts';
import { mapTensors, substitute, trainable } from '../../nn/tree.ts';
import { llamaAdapter } from '../../peft/additive/llamaAdapter.ts';
import { promptTuning } from '../../peft/additive/promptTuning.ts';
import { svd } from '../../peft/linalg.ts';
import { alora } from '../../peft/reparameterized/alora.ts';
import { arrow } from '../../peft/reparameterized/arrow.ts';
import { arrowOf } from '../../peft/reparameterized/arrowOf.ts';
import type { Factors } from '../../peft/reparameterized/lora.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { xlora } from '../../peft/reparameterized/xlora.ts';
import { xloraOf } from '../../peft/reparameterized/xloraOf.ts';
import { gpt2Network, llamaNetwork, perturb } from '../laws/models.ts';
import { affine, apart, flat, layerAt, own, random, rowsOf, softmax } from './naive.ts';
import { product, transpose } from './structured.ts';

const engine = float64();
const { base } = llamaNetwork(7);
const Q = 'trunk.blocks.1.attn.q';
const VOCABULARY = 11;
const ids = (rows: readonly (readonly number[])[]): Tensor => leaf(rows.flat(), [rows.length, rows[0]!.length]);
const numbers = async (t: Tensor): Promise<number[]> => Array.from(await engine.read(t));
const answers = (m: Model, rows: readonly (readonly number[])[]): Promise<number[]> =>
  numbers(m({ ids: ids(rows) }, context(rows[0]!.length)));
/** The logits of some places of one row. */
const places = (logits: readonly number[], from: number, to?: number): number[] =>
  logits.slice(from * VOCABULARY, to === undefined ? undefined : to * VOCABULARY);
/** A tree whose parameters hold the numbers that `f` finds for their paths. */
const filled = (m: Model, f: (path: string, now: ArrayLike<number>) => ArrayLike<number>): Model =>
  mapTensors(m, (t, path) => {
    const p = paramOf(t);
    return p === null ? t : stateOf({ ...p, value: Float64Array.from(f(path, p.value)) });
  });
/** The parameters of a tree by path. */
const valuesOf = (m: Model): Map<string, ArrayLike<number>> => new Map([...trainable(m)].map(([p, path]) => [path, p.value]));

describe.each([gpt2Network(7), llamaNetwork(7)])('alora on $name', (net) => {
  const where = ['q', 'k', 'v'];
  const make = (invocation: readonly number[], absent: 'base' | 'all' = 'base', on: Model = net.base): Model =>
    perturb(alora({ rank: 2, alpha: 3, where, invocation, absent })(on), 4, 0.5);
  const text = [3, 1, 4, 1, 5, 9, 2];

  it('acts from the start of the last invocation on: the text before it is the base, and one it begins is LoRA', async () => {
    const plain = await answers(net.base, [text]);
    const pair = await answers(make([1, 5]), [text]);
    expect(places(pair, 0, 3)).toEqual(places(plain, 0, 3));
    expect(apart(places(pair, 3, 4), places(plain, 3, 4))).toBeGreaterThan(1e-3);
    const last = await answers(make([1]), [text]); // it is there twice
    expect(places(last, 0, 3)).toEqual(places(plain, 0, 3));
    expect(apart(places(last, 3), places(plain, 3))).toBeGreaterThan(1e-3);
    const first = make([3, 1]);
    const values = valuesOf(first);
    const whole = filled(lora({ rank: 2, alpha: 3, where })(net.base), (path) => values.get(path.replace('.lora.', '.alora.'))!);
    expect(apart(await answers(first, [text]), await answers(whole, [text]))).toBeLessThan(1e-13);
  });

  it('leaves a row without the invocation to the base, or adapts all of it on request; each row for itself', async () => {
    const rows = [text, [3, 1, 4, 8, 5, 9, 2]];
    const [y, plain] = [await answers(make([1, 5]), rows), await answers(net.base, rows)];
    expect(places(y, 7)).toEqual(places(plain, 7));
    expect(apart(places(y, 0, 7), places(plain, 0, 7))).toBeGreaterThan(1e-3);
    const all = await answers(make([1, 5], 'all'), rows);
    expect(apart(places(all, 7, 8), places(plain, 7, 8))).toBeGreaterThan(1e-3);
    expect(places(all, 0, 7)).toEqual(places(y, 0, 7));
    expect(await answers(make([1, 2, 3, 4, 5, 6, 7, 8]), rows)).toEqual(plain); // longer than the text
  });

  it('does not find it in padding', async () => {
    const batch = { ids: ids([[3, 1, 4, 0, 0]]), keyMask: ids([[1, 1, 1, 0, 0]]) };
    const real = async (m: Model): Promise<number[]> => places(await numbers(m(batch, context(5))), 0, 3);
    expect(await real(make([0]))).toEqual(await real(net.base));
    expect(await real(make([4, 0]))).toEqual(await real(net.base));
  });

  it('has the keys and values of the base before the invocation, bit for bit: a cache of the base serves', async () => {
    const kept = (m: Model): Tensor[] => {
      const seen: Tensor[] = [];
      const cache: Cache = {
        filled: false,
        exchange: (k, v) => {
          if (k.shape[3]! > 1) seen.push(k, v); // the ids have one feature
          return { k, v };
        },
      };
      m({ ids: ids([text]) }, context(7, { cache }));
      return seen;
    };
    const [mine, theirs] = [kept(make([1, 5])), kept(net.base)];
    expect(mine).toHaveLength(4);
    for (const [k, t] of mine.entries()) {
      expect(await numbers(t.slice(2, 0, 3))).toEqual(await numbers(theirs[k]!.slice(2, 0, 3)));
      expect(apart(await numbers(t.slice(2, 3)), await numbers(theirs[k]!.slice(2, 3)))).toBeGreaterThan(1e-3);
    }
  });

  it('generates with a cache what it computes without, the invocation in the prompt or decoded', async () => {
    const model = make([1]);
    for (const [start, words] of [
      [2, [3, 1, 4, 8, 5]],
      [4, text],
      [2, [3, 8, 1, 6]],
    ] as const) {
      // prettier-ignore
      const d = await decoding(model, [words.slice(0, start), [8, 9]], { engine, tokens: 4 });
      for (let n = start; n <= words.length; n++) {
        const whole = await answers(model, [words.slice(0, n)]);
        expect(apart(places([...d.logits], 0, 1), places(whole, n - 1))).toBeLessThan(1e-10);
        if (n < words.length) await d.advance([words[n]!, null]);
      }
      d.close();
    }
  });

  it('leaves rows that are no tokens alone: LLaMA-Adapter’s prompt', async () => {
    const both = perturb(llamaAdapter({ length: 2 })(make([3])), 4, 0.5);
    const values = valuesOf(both);
    const under = filled(make([7]), (path, now) => values.get(path) ?? now); // an invocation that is not there
    const without = filled(llamaAdapter({ length: 2 })(under), (path) => values.get(path)!);
    const [y, plain] = [await answers(both, [[8, 1, 3]]), await answers(without, [[8, 1, 3]])];
    expect(places(y, 0, 2)).toEqual(places(plain, 0, 2));
    expect(apart(places(y, 2), places(plain, 2))).toBeGreaterThan(1e-3);
  });

  it('leaves a prompt in front of the text alone', async () => {
    const prompted = promptTuning({ length: 2 })(net.base);
    const both = make([4], 'base', prompted);
    const values = valuesOf(both);
    const [y, without] = [
      await answers(both, [text]),
      await answers(
        filled(prompted, (path) => values.get(path)!),
        [text],
      ),
    ];
    expect(places(y, 0, 2)).toEqual(places(without, 0, 2));
    expect(apart(places(y, 2), places(without, 2))).toBeGreaterThan(1e-3);
  });

  it('says what it needs', () => {
    expect(() => layerAt(make([1]), 'linear', Q)(random(1, [1, 3, 8]), context(3))).toThrow(/alora at .*ids of the text/);
    expect(() => alora({ rank: 2, invocation: [], where: 'q' })(net.base)).toThrow(/one id or more/);
    expect(() => alora({ rank: 2, where: 'head' })(net.base)).toThrow(/head is outside the blocks/);
  });
});

const experts = [2, 1].map((rank, k) => perturb(lora({ rank, alpha: 3, where: ['q', 'v'] })(base), k + 1, 0.5));
const text = [
  [3, 1, 4, 1],
  [5, 9, 2, 6],
];

describe('xlora', () => {
  /** The network with both experts, each token's input scaled by shares [2, 4, 2] that are given. */
  const byHand = (shares: Tensor, weight = 1): Model =>
    substitute(base, 'linear', (l, path) => {
      const factors = experts.map((m) => layerAt(m, 'linear', path).fields.lora as Factors | undefined);
      if (factors[0] === undefined) return null;
      return layer(
        'linear',
        { [BASE]: l },
        () => (x, ctx) =>
          factors
            .map((f, e) =>
              x
                .mul(shares.slice(2, e, e + 1))
                .matmul(f!.A.T)
                .matmul(f!.B.T)
                .mul((weight * 3) / [2, 1][e]!),
            )
            .reduce((y, one) => y.add(one), l(x, ctx)),
      );
    });
  const evenly = leaf(new Float64Array(16).fill(0.5), [2, 4, 2]);

  it('sure of one expert, it is that LoRA; sure of none, it has half of each', async () => {
    for (const layerwise of [false, true]) {
      const method = xloraOf(experts, { layerwise, depth: 2, hidden: 3 });
      const second = filled(method(base), (path, now) => Array.from(now, (_, k) => (path.includes('biases.1') && k % 2 === 1 ? 1000 : 0)));
      expect(apart(await answers(second, text), await answers(experts[1]!, text))).toBeLessThan(1e-13);
      const neither = filled(method(base), (_, now) => Array.from(now, () => 0));
      expect(apart(await answers(neither, text), await answers(byHand(evenly), text))).toBeLessThan(1e-13);
    }
  });

  it('takes λ from the base’s last hidden states, a token at a time', async () => {
    const model = perturb(xloraOf(experts, { depth: 2, hidden: 3, temperature: 0.5, weight: 0.7 })(base), 3, 0.7);
    const p = await own(engine, model, 'trunk.xlora');
    const call = (name: string): ((t: Tensor, c: Context) => Tensor) => base.fields[name] as unknown as (t: Tensor, c: Context) => Tensor;
    const c = context(4, { causal: true });
    const h = rowsOf(await engine.read(call('trunk')(call('embed')(ids(text), c), c)), 8);
    const inner = affine(h, p['weights.0']!, p['biases.0']![0]).map((row) => row.map((v) => Math.max(v, 0)));
    const lambda = affine(inner, p['weights.1']!, p['biases.1']![0]).map((row) => softmax(row.map((v) => v / 0.5)));
    const hand = byHand(leaf(Float64Array.from(flat(lambda)), [2, 4, 2]), 0.7);
    expect(apart(await answers(model, text), await answers(hand, text))).toBeLessThan(1e-12);
  });

  it('with λ₀ in the first pass takes λ from the last hidden states of a network that has all experts at λ₀', async () => {
    const method = { temperature: 0.5, weight: 0.7 };
    const model = perturb(xloraOf(experts, { ...method, firstPass: 0.4 })(base), 3, 0.7);
    const p = await own(engine, model, 'trunk.xlora');
    const equal = byHand(leaf(new Float64Array(16).fill(0.4), [2, 4, 2]), 0.7);
    const call = (name: string): ((t: Tensor, c: Context) => Tensor) => equal.fields[name] as unknown as (t: Tensor, c: Context) => Tensor;
    const c = context(4, { causal: true });
    const h = rowsOf(await engine.read(call('trunk')(call('embed')(ids(text), c), c)), 8);
    const lambda = affine(h, p['weights.0']!, p['biases.0']![0]).map((row) => softmax(row.map((v) => v / 0.5)));
    const hand = await answers(byHand(leaf(Float64Array.from(flat(lambda)), [2, 4, 2]), 0.7), text);
    expect(apart(await answers(model, text), hand)).toBeLessThan(1e-12);
    const values = valuesOf(model);
    const without = filled(xloraOf(experts, method)(base), (path) => values.get(path)!);
    expect(apart(await answers(without, text), hand)).toBeGreaterThan(1e-3);
  });

  it.each([0, 0.4])('generates with a cache what it computes without, λ₀ = %d', async (firstPass) => {
    const model = perturb(xloraOf(experts, { firstPass })(base), 3, 0.7);
    const words = [3, 1, 4, 8, 5];
    const d = await decoding(model, [words.slice(0, 2)], { engine, tokens: 4 });
    for (let n = 2; n <= words.length; n++) {
      const whole = await answers(model, [words.slice(0, n)]);
      expect(apart(places([...d.logits], 0, 1), places(whole, n - 1))).toBeLessThan(1e-10);
      if (n < words.length) await d.advance([words[n]!]);
    }
    d.close();
  });

  it('hears the best only, with its share or with all', async () => {
    const method = { layerwise: false, topK: 1 };
    const values = valuesOf(perturb(xloraOf(experts, method)(base), 3, 0.7));
    const same = (options: object): Model => filled(xloraOf(experts, options)(base), (path) => values.get(path)!);
    const p = await own(engine, same(method), 'trunk.xlora');
    const c = context(4, { causal: true });
    const trunk = base.fields.trunk as unknown as (t: Tensor, c: Context) => Tensor;
    const embed = base.fields.embed as unknown as (t: Tensor, c: Context) => Tensor;
    const h = rowsOf(await engine.read(trunk(embed(ids(text), c), c)), 8);
    const logits = affine(h, p['weights.0']!, p['biases.0']![0]);
    const best = (row: readonly number[], share: (v: number, e: number) => number): number[] =>
      row.map((v, e) => (v === Math.max(...row) ? share(v, e) : 0));
    const shares = (f: (row: number[]) => number[]): Tensor => leaf(Float64Array.from(flat(logits.map(f))), [2, 4, 2]);
    const [one, all] = [shares((row) => best(row, (_, e) => softmax(row)[e]!)), shares((row) => best(row, () => 1))];
    expect(apart(await answers(same(method), text), await answers(byHand(one), text))).toBeLessThan(1e-12);
    const softened = same({ ...method, softmax: false, topKSoftmax: true });
    expect(apart(await answers(softened, text), await answers(byHand(all), text))).toBeLessThan(1e-12);
  });

  it('hears an expert where it is, and nothing of it elsewhere', async () => {
    const each = ['q', 'v'].map((where, k) => perturb(lora({ rank: 2, alpha: 3, where })(base), k + 1, 0.5));
    const model = filled(xloraOf(each, { softmax: false })(base), (path, now) =>
      Array.from(now, () => (path.endsWith('.biases.0') ? 1 : 0)),
    ); // every λ is 1
    const values = new Map(each.flatMap((m) => [...valuesOf(m)]));
    const both = filled(lora({ rank: 2, alpha: 3, where: ['q', 'v'] })(base), (path) => values.get(path)!);
    expect(apart(await answers(model, text), await answers(both, text))).toBeLessThan(1e-12);
  });

  it('trains the classifier alone, or the experts too', () => {
    expect([...trainable(xloraOf(experts)(base)).values()]).toEqual(['trunk.xlora.weights.0', 'trunk.xlora.biases.0']);
    expect(trainable(xloraOf(experts, { trainExperts: true })(base)).size).toBe(2 + 16);
  });

  it('refuses what does not fit', () => {
    expect(() => xloraOf([])).toThrow(/no models/);
    expect(() => xloraOf([base])).toThrow(/model 0 has no lora/);
    const ranks = lora({ rank: 3, where: 'q' })(lora({ rank: 2, where: 'v' })(base));
    expect(() => xloraOf([ranks])).toThrow(/LoRAs of rank 3 and 2; an expert has one rank/);
    expect(() => xlora({ experts: [] })(base)).toThrow(/no experts/);
    expect(() => xlora({ experts: [{ rank: 2, scale: 1 }], topKSoftmax: true })(base)).toThrow(/set topK/);
    expect(() => xlora({ experts: [{ rank: 2, scale: 1 }], topK: 1, firstPass: 0.5 })(base)).toThrow(/none is the largest/);
  });
});

describe('arrow', () => {
  const three = [1, 2, 3].map((k) => perturb(lora({ rank: 2, alpha: 3, where: ['q', 'v'] })(base), k, 0.5));
  test('of one LoRA it is that LoRA; nothing is trained, unless the experts are', async () => {
    const model = arrowOf([three[0]!])(base);
    expect(apart(await answers(model, text), await answers(three[0]!, text))).toBeLessThan(1e-12);
    expect(trainable(model).size).toBe(0);
    expect(trainable(arrowOf(three, { trainExperts: true })(base)).size).toBe(24);
  });

  test('a token hears the K whose prototypes are nearest, in proportion', async () => {
    const model = arrowOf(three, { topK: 2, temperature: 0.6 })(base);
    const x = random(1, [2, 3, 8]);
    const parts = await Promise.all(three.map((m) => own(engine, m, Q)));
    const changes = parts.map((p) => product(p['lora.B']!, p['lora.A']!).map((row) => row.map((v) => v * 1.5)));
    const prototypes = changes.map((d) => Array.from(svd(Float64Array.from(flat(d)), 8, 8, 1).vt));
    const rows = rowsOf(await engine.read(x), 8);
    const plain = rowsOf(await engine.read(layerAt(base, 'linear', Q)(x, context(3))), 8);
    const want = rows.map((row, i) => {
      const near = prototypes.map((v) => Math.abs(v.reduce((s, w, k) => s + w * row[k]!, 0)));
      const shares = softmax(near.map((n) => (n === Math.min(...near) ? -1e9 : n / 0.6)));
      return plain[i]!.map((v, o) => changes.reduce((s, d, e) => s + shares[e]! * d[o]!.reduce((n, w, k) => n + w * row[k]!, 0), v));
    });
    expect(apart(await numbers(layerAt(model, 'linear', Q)(x, context(3))), flat(want))).toBeLessThan(1e-11);
  });

  test('GenKnowSub takes the mean of the general factors off, each by itself', async () => {
    const model = arrowOf([three[0]!], { general: [three[1]!, three[2]!] })(base);
    const [a, b, c] = await Promise.all(three.map((m) => own(engine, m, Q)));
    const less = (n: string): number[][] => a![n]!.map((row, i) => row.map((v, j) => v - (b![n]![i]![j]! + c![n]![i]![j]!) / 2));
    const x = random(1, [1, 3, 8]);
    const plain = await numbers(layerAt(base, 'linear', Q)(x, context(3)));
    const change = product(rowsOf(await engine.read(x), 8), transpose(product(less('lora.B'), less('lora.A'))));
    const want = flat(change).map((v, i) => plain[i]! + 1.5 * v);
    expect(apart(await numbers(layerAt(model, 'linear', Q)(x, context(3))), want)).toBeLessThan(1e-12);
    expect(() => arrowOf([three[0]!], { general: [experts[1]!] })).toThrow(/one rank/);
    expect(() => arrow({ topK: 4, where: 'q' })(base)).toThrow(/topK 4/);
  });
});
