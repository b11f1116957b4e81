// MoSLoRA, MiSS, Bone, HiRA and VB-LoRA against their equations in plain arithmetic, and what they promise.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { type Param, paramOf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { realize, withValues } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { tensors } from '../../nn/tree.ts';
import { product, svd, transposed } from '../../peft/linalg.ts';
import { finish, merge } from '../../peft/merge.ts';
import { bone } from '../../peft/reparameterized/bone.ts';
import { hira } from '../../peft/reparameterized/hira.ts';
import { loraXs } from '../../peft/reparameterized/loraXs.ts';
import { miss } from '../../peft/reparameterized/miss.ts';
import { moslora } from '../../peft/reparameterized/moslora.ts';
import { vblora } from '../../peft/reparameterized/vblora.ts';
import { llamaNetwork, numbersOf, perturb, run } from '../laws/models.ts';
import { affine, apart, flat, layerAt, own, plus, random, rowsOf, scaled, softmax } from './naive.ts';

const engine = float64();
const net = llamaNetwork(2); // v has one head of width 4, the feed-forward 12
const { base } = net;
const where = ['q', 'v', 'up', 'down'];
const SITES = [
  ['trunk.blocks.0.attn.q', 8, 8],
  ['trunk.blocks.1.attn.v', 4, 8],
  ['trunk.blocks.0.mlp.up', 12, 8],
  ['trunk.blocks.1.mlp.down', 8, 12],
] as const;
const LLAMA = Array.from({ length: 28 }, () => [{ shape: [3072, 3072] }, { shape: [1024, 3072] }]).flat() as never;
const named = (m: Model, path: string): Tensor => [...tensors(m)].find((t) => t.path === path)!.tensor;
const put = (m: Model, path: string, v: readonly number[]): Model =>
  withValues(m, new Map<Param, Float64Array>([[paramOf(named(m, path))!, Float64Array.from(v)]]));
const output = async (m: Model, site: string, x: Tensor) => (await engine.read(layerAt(m, 'linear', site)(x, context(3)))).slice();
const array = (m: readonly (readonly number[])[]): Float64Array => Float64Array.from(m.flat());

describe('moslora', () => {
  const model = perturb(moslora({ rank: 3, alpha: 6, where: ['q', 'v'] })(base), 1);
  it('y = W x + b + s·B M A x', async () => {
    const x = random(1, [3, 8]);
    for (const [site] of SITES.slice(0, 2)) {
      const [p, xs] = [await own(engine, model, site), rowsOf(await engine.read(x), 8)];
      const branch = affine(affine(affine(xs, p['moslora.A']!), p['moslora.M']!), p['moslora.B']!);
      expect(
        apart(
          await output(model, site, x),
          flat(
            plus(
              affine(xs, p.weight!),
              scaled(branch, () => 2),
            ),
          ),
        ),
      ).toBeLessThan(1e-12);
    }
  });
  it('M is orthogonal when asked, within 1/√r else; M = I is LoRA', async () => {
    const M = async (mixer: 'kaiming' | 'orthogonal') =>
      array((await own(engine, moslora({ rank: 3, mixer })(base), SITES[0][0]))['moslora.M']!);
    const q = await M('orthogonal');
    expect(apart(product(q, transposed(q, 3, 3), 3, 3, 3), [1, 0, 0, 0, 1, 0, 0, 0, 1])).toBeLessThan(1e-6);
    expect(Math.max(...(await M('kaiming')).map(Math.abs))).toBeLessThanOrEqual(1 / Math.sqrt(3));
    const [site] = SITES[0];
    const one = put(model, `${site}.moslora.M`, [1, 0, 0, 0, 1, 0, 0, 0, 1]);
    const x = random(1, [3, 8]);
    const [p, xs] = [await own(engine, one, site), rowsOf(await engine.read(x), 8)];
    expect(
      apart(
        await output(one, site, x),
        flat(
          plus(
            affine(xs, p.weight!),
            scaled(affine(affine(xs, p['moslora.A']!), p['moslora.B']!), () => 2),
          ),
        ),
      ),
    ).toBeLessThan(1e-12);
  });
  it('trains r² more than LoRA', () => expect(moslora.method.count(LLAMA, { rank: 32 }).train).toBe(9_175_040 + 56 * 1024));
});

describe('miss', () => {
  for (const [rank, miniRank] of [
    [4, null],
    [3, null], // does not divide the input: padded
    [2, 2],
  ] as const)
    it(`y = W x + b + Mᵀ Σ_k x_k, pieces of ${rank}${miniRank === null ? '' : `, M repeated from ${miniRank} columns`}`, async () => {
      const model = perturb(miss({ rank, miniRank, where })(base), 1);
      for (const [site, out, into] of SITES) {
        const x = random(1, [3, into]);
        const [p, xs] = [await own(engine, model, site), rowsOf(await engine.read(x), into)];
        const M = p['miss.M']!;
        const added = xs.map((row) =>
          Array.from({ length: out }, (_, o) => row.reduce((s, v, i) => s + v * M[i % rank]![o % M[0]!.length]!, 0)),
        );
        expect(apart(await output(model, site, x), flat(plus(affine(xs, p.weight!), added))), site).toBeLessThan(1e-12);
        expect(apart(await output(merge(model), site, x), await output(model, site, x)), site).toBeLessThan(1e-12);
      }
    });
  it('trains r·out: 7,340,032 scalars of Llama-3.2-3B at rank 64; 229,376 with 64 columns', () => {
    expect(miss.method.count(LLAMA, { rank: 64, miniRank: null }).train).toBe(7_340_032);
    expect(miss.method.count(LLAMA, { rank: 64, miniRank: 64 }).train).toBe(229_376);
  });
  it('refuses pieces wider than the input and columns that do not divide the output', () => {
    expect(() => miss({ rank: 9 })(base)).toThrow(/miss: rank 9 at trunk\.blocks\.0\.attn\.q is above the input's width 8/);
    expect(() => miss({ rank: 2, miniRank: 3 })(base)).toThrow(/miss: miniRank 3 .* must divide the output's width 8/);
  });
});

describe('bone', () => {
  it('W′_{ik} = W_{ik} + W_{ik} M_i + M_i in blocks', async () => {
    const model = perturb(bone({ rank: 4, where: where.map((w) => `${w}.weight`) })(base), 1);
    for (const [site, out, into] of SITES) {
      const p = await own(engine, model, site);
      const W = rowsOf(await engine.read(layerAt(base, 'weight', `${site}.weight`)()), into);
      const M = p['weight.bone.M']!; // [out/4 · 4, 4]
      const changed = W.map((row, o) =>
        row.map((v, i) => {
          const [block, k] = [Math.floor(o / 4), Math.floor(i / 4)];
          const inner = [0, 1, 2, 3].reduce((s, j) => s + row[4 * k + j]! * M[4 * block + j]![i % 4]!, 0);
          return v + inner + M[4 * block + (o % 4)]![i % 4]!;
        }),
      );
      expect(changed.length).toBe(out);
      expect(apart(await engine.read(layerAt(model, 'weight', `${site}.weight`)()), flat(changed)), site).toBeLessThan(1e-12);
    }
  });
  it('refuses a block that does not divide both sides, and vectors', () => {
    expect(() => bone({ rank: 3 })(base)).toThrow(/bone: rank 3 at trunk\.blocks\.0\.attn\.q\.weight must divide both sides/);
    expect(() => bone({ rank: 4, where: 'norm1.weight' })(base)).toThrow(/bone: .* of a matrix, and this is \[8\]/);
  });
});

describe('hira', () => {
  const model = perturb(hira({ rank: 2, where: where.map((w) => `${w}.weight`) })(base), 1);
  it('W′ = W + W ⊙ (B A), of a rank that LoRA does not reach', async () => {
    for (const [site, , into] of SITES) {
      const p = await own(engine, model, `${site}.weight`);
      const W = rowsOf(await engine.read(layerAt(base, 'weight', `${site}.weight`)()), into);
      const [A, B] = [p['hira.A']!, p['hira.B']!];
      const want = W.map((row, o) => row.map((v, i) => v * (1 + B[o]!.reduce((s, b, j) => s + b * A[j]![i]!, 0))));
      expect(apart(await engine.read(layerAt(model, 'weight', `${site}.weight`)()), flat(want)), site).toBeLessThan(1e-12);
      if (site.endsWith('q'))
        expect(
          svd(
            array(want).map((v, k) => v - flat(W)[k]!),
            8,
            8,
            8,
          ).s[3],
        ).toBeGreaterThan(1e-3); // rank above 2
    }
  });
  it('trains 9,175,040 scalars of Llama-3.2-3B at rank 32, and refuses vectors and large ranks', () => {
    expect(hira.method.count(LLAMA, { rank: 32 }).train).toBe(9_175_040);
    expect(() => hira({ rank: 1, where: 'norm1.weight' })(base)).toThrow(/hira: .*norm1\.weight is \[8\], and HiRA changes matrices/);
    expect(() => hira({ rank: 9 })(base)).toThrow(/hira: rank 9/);
  });
});

describe('vblora', () => {
  const c = { rank: 2, vectors: 6, vectorLength: 4, topK: 2, where };
  const model = perturb(vblora(c)(base), 1);
  /** A segment: the k largest logits' vectors, weighed by their softmax. */
  const segment = (logits: readonly number[], bank: readonly (readonly number[])[]): number[] => {
    const top = [...logits.keys()].sort((i, j) => logits[j]! - logits[i]!).slice(0, 2);
    const w = softmax(top.map((i) => logits[i]!));
    expect(w.reduce((a, b) => a + b)).toBeCloseTo(1, 12);
    return bank[0]!.map((_, d) => top.reduce((s, i, k) => s + w[k]! * bank[i]![d]!, 0));
  };
  it('y = W x + b₀ + B A x with A and B put together from the bank', async () => {
    for (const [site, out, into] of SITES) {
      const x = random(1, [3, into]);
      const [p, xs] = [await own(engine, model, site), rowsOf(await engine.read(x), into)];
      const [bank, la, lb] = [p['vblora.bank']!, p['vblora.logitsA']!, p['vblora.logitsB']!]; // rows: r·in/4 and out/4·r
      const A = [0, 1].map((j) => la.slice((j * into) / 4, ((j + 1) * into) / 4).flatMap((l) => segment(l, bank)));
      const B = Array.from({ length: out }, (_, o) => [0, 1].map((j) => segment(lb[2 * Math.floor(o / 4) + j]!, bank)[o % 4]!));
      expect(apart(await output(model, site, x), flat(plus(affine(xs, p.weight!), affine(affine(xs, A), B)))), site).toBeLessThan(1e-12);
    }
  });
  it('gradients reach the chosen logits and vectors alone; one bank serves all layers', async () => {
    const { loss } = run(net, vblora({ ...c, vectors: 40, where: 'q' })(base));
    const first = vblora({ ...c, vectors: 40, where: 'q' })(base);
    const site = SITES[0][0];
    const [logits, bank] = grad(run(net, first).loss, [named(first, `${site}.vblora.logitsA`), named(first, `${site}.vblora.bank`)]);
    expect(loss.shape).toEqual([]);
    const g = rowsOf((await engine.read(logits!)).slice(), 40);
    const p = await own(engine, first, site);
    for (const [k, row] of p['vblora.logitsA']!.entries()) {
      const top = [...row.keys()]
        .sort((i, j) => row[j]! - row[i]!)
        .slice(0, 2)
        .sort((a, b) => a - b);
      expect([...g[k]!.keys()].filter((i) => g[k]![i] !== 0)).toEqual(top);
    }
    const used = rowsOf(await engine.read(bank!), 4).filter((row) => row.some((v) => v !== 0)).length;
    expect(used).toBeGreaterThan(2);
    expect(used).toBeLessThan(40);
    expect(new Set([...tensors(first)].filter(({ path }) => path.endsWith('.bank')).map(({ tensor }) => paramOf(tensor))).size).toBe(1);
  });
  it('compressed to k indices and k − 1 weights per segment, it computes the same', async () => {
    const done = await realize(finish(model), engine);
    expect(apart(await numbersOf(engine, net, done), await numbersOf(engine, net, model))).toBeLessThan(1e-12);
    expect([...tensors(done)].some(({ path }) => path.includes('logits'))).toBe(false);
    expect([...tensors(finish(done))].length).toBe([...tensors(done)].length);
  });
  it('trains the bank and the logits: 1,212,416 scalars of Llama-3.2-3B', () => {
    const sites = LLAMA;
    const d = { rank: 4, vectors: 256, vectorLength: 256, topK: 2 };
    expect(vblora.method.count(sites, d)).toEqual({ train: 1_212_416, stored: 65_536 + (4 * 10_240 * 28 * 3) / 256 });
    expect(loraXs.method.count(sites, { rank: 32 }).train).toBe(56 * 1024);
  });
  it('refuses vectors that do not divide the sides, and a single choice', () => {
    expect(() => vblora({ ...c, vectorLength: 3 })(base)).toThrow(/vblora: vectorLength 3 must divide both sides of the weight \[8, 8\]/);
    expect(() => vblora({ ...c, topK: 1 })(base)).toThrow(/vblora: topK 1/);
    expect(() => vblora({ ...c, topK: 7 })(base)).toThrow(/vblora: topK 7/);
  });
});
