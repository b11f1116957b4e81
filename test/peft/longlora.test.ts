// LongLoRA: shifted group attention against a brute-force mask, the leak of the literal roll, interpolated positions, two trees.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { decoder, gpt2, llama } from '../../nn/decoder.ts';
import { freeze } from '../../nn/freeze.ts';
import { generate } from '../../nn/generate.ts';
import { interpolatePositions } from '../../nn/interpolate.ts';
import type { Model } from '../../nn/layer.ts';
import { nextToken } from '../../nn/losses.ts';
import { layers, trainable } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';
import { prefixTuning } from '../../peft/additive/prefixTuning.ts';
import { embedAndNorm, longlora } from '../../peft/hybrid/longlora.ts';
import { shiftedAttention } from '../../peft/hybrid/shiftedAttention.ts';
import { sitesOf } from '../../peft/site.ts';
import { generic, perturb } from '../laws/models.ts';
import { apart, attention, layerAt, random, rowsOf, trained } from './naive.ts';

const engine = float64();
const V = 11;
const network = (seed: number, change: { heads?: number; kvHeads?: number; layers?: number } = {}): Model => {
  const r = rng(seed);
  const sizes = { vocabulary: V, width: 16, layers: 1, heads: 4, positions: 8, inner: 12, ...change };
  return freeze(generic(decoder(llama(sizes), r), r));
};
const text = (seed: number, n: number): number[] => {
  const r = rng(seed).split('text');
  return Array.from({ length: n }, () => r.below(V));
};
const logits = async (m: Model, ids: readonly number[]): Promise<number[][]> =>
  rowsOf(await engine.read(m({ ids: leaf(ids, [1, ids.length]) }, context(ids.length))), V);

/** Group of a token for an unshifted head, and the segment of a shifted one: 0 … G/2, 3G/2, …, T. */
const group = (i: number, g: number, shifted: boolean): number => Math.floor((i + (shifted ? g / 2 : 0)) / g);
const ATTEND = 'trunk.blocks.0.attn.attend';

describe('shiftedAttention', () => {
  it('lets every token of every head see exactly the earlier tokens of its group: against brute force, with shared key heads', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 0, max: 1e6 }),
        fc.constantFrom(2, 3, 4),
        fc.constantFrom(1, 2),
        fc.constantFrom(1, 2, 4),
        fc.boolean(),
        async (seed, groups, halves, kvHeads, causal) => {
          const [B, H, T, D] = [2, 4, groups * 2 * halves, 3];
          const G = T / groups;
          const attend = layerAt(shiftedAttention({ groups })(network(1, { kvHeads })), 'attend', ATTEND);
          const [q, k, v] = [random(seed, [B, H, T, D]), random(seed + 1, [B, kvHeads, T, D]), random(seed + 2, [B, kvHeads, T, D])];
          const got = await engine.read(attend(q, k, v, context(T, { causal })));
          const [rq, rk, rv] = [await rows(q), await rows(k), await rows(v)];
          const naive = Array.from({ length: B * H }, (_, bh) => {
            const [b, h] = [Math.floor(bh / H), bh % H];
            const at = b * kvHeads + Math.floor(h / (H / kvHeads));
            const part = (x: number[][], n: number): number[][] => x.slice(n * T, (n + 1) * T);
            const sees = (i: number, j: number): boolean => group(i, G, h >= H / 2) === group(j, G, h >= H / 2) && (!causal || j <= i);
            return attention(part(rq, bh), part(rk, at), part(rv, at), sees).flat();
          });
          expect(apart(got, naive.flat())).toBeLessThan(1e-10);
        },
      ),
      { numRuns: 25 },
    );
  });
  it('hides padding as full attention does', async () => {
    const [T, groups] = [8, 2];
    const attend = layerAt(shiftedAttention({ groups })(network(1)), 'attend', ATTEND);
    const qkv = [1, 2, 3].map((s) => random(s, [1, 4, T, 2]));
    const keyMask = leaf([1, 1, 1, 1, 1, 1, 1, 0], [1, T]);
    const masked = await engine.read(attend(qkv[0]!, qkv[1]!, qkv[2]!, context(T, { keyMask })));
    const naive = (await Promise.all(qkv.map(rows))).map((x) => Array.from({ length: 4 }, (_, h) => x.slice(h * T, (h + 1) * T)));
    const expected = [0, 1, 2, 3].flatMap((h) =>
      attention(naive[0]![h]!, naive[1]![h]!, naive[2]![h]!, (i, j) => group(i, 4, h >= 2) === group(j, 4, h >= 2) && j !== 7).flat(),
    );
    expect(apart(masked, expected)).toBeLessThan(1e-10);
  });
  it('with one group is full attention, bit for bit', async () => {
    const base = network(2);
    expect(await logits(shiftedAttention({ groups: 1 })(base), text(1, 8))).toEqual(await logits(base, text(1, 8)));
  });
  it('never shows a token what comes after it; the literal roll does', async () => {
    const base = network(3);
    const ids = text(3, 8);
    const changed = ids.with(7, (ids[7]! + 1) % V);
    const leak = async (form: 'segments' | 'roll'): Promise<number> => {
      const m = shiftedAttention({ groups: 2, form })(base);
      const [a, b] = [await logits(m, ids), await logits(m, changed)];
      return apart(a.slice(0, 7).flat(), b.slice(0, 7).flat());
    };
    expect(await leak('segments')).toBe(0);
    expect(await leak('roll')).toBeGreaterThan(1e-3);
  });
  it('the roll differs from the segments in the wrapped group only', async () => {
    const [q, k, v] = [random(1, [1, 2, 8, 2]), random(2, [1, 2, 8, 2]), random(3, [1, 2, 8, 2])];
    const read = async (form: 'segments' | 'roll'): Promise<number[][]> =>
      rows2(
        await engine.read(
          layerAt(shiftedAttention({ groups: 2, form })(network(1)), 'attend', ATTEND)(q, k, v, context(8, { causal: true })),
        ),
      );
    const [s, r] = [await read('segments'), await read('roll')];
    const differs = s.map((row, i) => apart(row, r[i]!) > 1e-12);
    // head 0 is not shifted; of head 1, tokens 0 and 1 see tokens 6 and 7, which in rolled order come before them
    expect(differs.flatMap((d, i) => (d ? [i] : []))).toEqual([8, 9]);
  });
  it('carries information from group to group over two layers', async () => {
    const ids = text(4, 8);
    const changed = ids.with(2, (ids[2]! + 1) % V);
    const reaches = async (layers: number): Promise<boolean> => {
      const m = shiftedAttention({ groups: 2 })(network(4, { layers }));
      const [a, b] = [await logits(m, ids), await logits(m, changed)];
      return apart(a[7]!, b[7]!) > 1e-12; // token 2 is in group 0, token 7 in the last segment
    };
    expect(await reaches(1)).toBe(false);
    expect(await reaches(2)).toBe(true); // 2 → 5 in the shifted segment [2, 6), 5 → 7 in the group [4, 8)
  });
  it('refuses what it cannot do, by place and remedy', async () => {
    const base = network(5);
    expect(() => shiftedAttention({ groups: 1.5 })).toThrow(/groups 1.5 must be a whole number/);
    const on = (m: Model, n: number): Tensor => m({ ids: leaf(text(1, n), [1, n]) }, context(n));
    expect(() => on(shiftedAttention({ groups: 4 })(base), 6)).toThrow(
      /attn\.attend: 6 tokens do not divide into 4 groups of even size.*multiple of 8/,
    );
    expect(() => on(shiftedAttention({ groups: 2 })(network(5, { heads: 1 })), 8)).toThrow(/1 query heads and 1 key heads do not divide/);
    const prefixed = prefixTuning({ length: 2, bottleneck: null })(base);
    expect(() => on(shiftedAttention({ groups: 2 })(prefixed), 4)).toThrow(/6 keys for 4 tokens.*prefix/);
  });
  it('is refused in generation, which is for the model with full attention', async () => {
    const base = network(6);
    await expect(generate(shiftedAttention({ groups: 2 })(base), [1, 2], { engine, tokens: 2 })).rejects.toThrow(
      /for training; generate with the model/,
    );
  });
});

describe('interpolatePositions', () => {
  it('at a position m κ computes what the base computes at m, and takes κ times the text', async () => {
    const base = network(7);
    const long = interpolatePositions(base, 30); // κ = ⌈30/8⌉ = 4
    const ids = leaf(text(7, 6), [1, 6]);
    const at = async (m: Model, by: number): Promise<ArrayLike<number>> =>
      (
        await engine.read(
          m(
            { ids },
            context(6, {
              positions: leaf(
                [0, 1, 2, 3, 4, 5].map((i) => i * by),
                [6],
              ),
            }),
          ),
        )
      ).slice();
    expect(apart(await at(long, 4), await at(base, 1))).toBeLessThan(1e-12);
    expect(apart(await at(long, 1), await at(base, 1))).toBeGreaterThan(1e-6);
    expect((await logits(long, text(7, 30))).length).toBe(30);
    await expect(logits(base, text(7, 30))).rejects.toThrow(/8 positions/);
    await expect(logits(long, text(7, 31))).rejects.toThrow(/30 positions/);
  });
  it('changes nothing where the model is long enough', () => {
    const base = network(8);
    expect(interpolatePositions(base, 8)).toBe(base);
    expect(interpolatePositions(base, 3)).toBe(base);
  });
  it('is applied again to what it made: the factors multiply', async () => {
    const base = network(9);
    const ids = text(9, 16);
    expect(await logits(interpolatePositions(interpolatePositions(base, 16), 32), ids)).toEqual(
      await logits(interpolatePositions(base, 32), ids),
    );
  });
  it('refuses learned positions, attached methods and nonsense', () => {
    const learned = decoder(gpt2({ vocabulary: V, width: 8, layers: 1, heads: 2, positions: 8 }), rng(1));
    expect(() => interpolatePositions(learned, 16)).toThrow(/no rotary positions/);
    expect(() => interpolatePositions(longlora({ rank: 2 })(network(1)), 16)).toThrow(
      /(embedAndNorm|lora) is attached at .*extend the base first/,
    );
    expect(() => interpolatePositions(network(1), 0)).toThrow(/tokens 0/);
  });
});

describe('longlora', () => {
  it('trains r(in + out) on q, k, v and o, the embedding table, and every norm', () => {
    const base = network(10, { layers: 2, kvHeads: 2 });
    const d = 16;
    const projections = 2 * (2 * (d + d) + 2 * (d + d / 2));
    expect(trained(longlora({ rank: 2 })(base))).toBe(2 * projections + V * d + 5 * d);
    const names = [...trainable(longlora({ rank: 2 })(base)).values()];
    expect(names.some((n) => n.startsWith('head'))).toBe(false);
    expect(names.filter((n) => n.includes('embedAndNorm')).length).toBe(6);
  });
  it('beside LoRA, Llama-3.2-3B trains its table of 128256 × 3072 and 57 norms of 3072: counted without allocating them', () => {
    const [one] = sitesOf(network(1), 'weight');
    const site = (shape: readonly number[]) => Object.create(one!, { shape: { value: shape } }) as typeof one & object;
    const sites = [site([128256, 3072]), ...Array.from({ length: 57 }, () => site([3072]))];
    expect(embedAndNorm.method.count(sites, {}).train).toBe(394_002_432 + 175_104); // the latter is what Hugging Face PEFT counts for LN tuning
  });
  it('one training serves two trees: trained under groups, read back under full attention', async () => {
    const full = longlora({ rank: 2, seed: 3 })(interpolatePositions(network(11), 16));
    const grouped = shiftedAttention({ groups: 4 })(full);
    await using t = await trainer(grouped, { engine, loss: nextToken, optimizer: adamw({ lr: 0.02 }) });
    const batch = { ids: { data: text(1, 16), shape: [1, 16] }, targets: { data: text(2, 16), shape: [1, 16] } };
    const losses: number[] = [];
    for (let k = 0; k < 4; k++) losses.push((await t.step(batch)).loss);
    expect(losses[3]).toBeLessThan(losses[0]!);
    const [trainedFull, trainedGrouped] = [await t.model(full), await t.model()];
    const [a, b] = [await logits(trainedFull, text(1, 16)), await logits(trainedGrouped, text(1, 16))];
    expect(apart(a.slice(0, 2).flat(), b.slice(0, 2).flat())).toBeLessThan(1e-12); // the first half group sees the same either way
    expect(apart(a.flat(), b.flat())).toBeGreaterThan(1e-6);
    expect((await generate(trainedFull, text(1, 10), { engine, tokens: 4 })).length).toBe(4);
    expect([...layers(trainedFull)].length).toBe([...layers(full)].length);
  });
  it('is bit for bit the base at the start but for the order of sums, and refuses models without rotary positions', async () => {
    const base = network(12);
    const [a, b] = [await logits(base, text(1, 6)), await logits(longlora({ rank: 2 })(base), text(1, 6))];
    expect(apart(b.flat(), a.flat())).toBeLessThan(1e-12);
    expect(apart((await logits(perturb(longlora({ rank: 2 })(base), 1), text(1, 6))).flat(), a.flat())).toBeGreaterThan(1e-6);
    const learned = freeze(decoder(gpt2({ vocabulary: V, width: 8, layers: 1, heads: 2, positions: 8 }), rng(1)));
    expect(() => longlora()(learned)).toThrow(/longlora: this model has no rotary positions/);
  });
});

const rows = async (t: Tensor): Promise<number[][]> => rowsOf(await engine.read(t), t.shape.at(-1)!);
const rows2 = (x: ArrayLike<number>): number[][] => rowsOf(x, 2);
