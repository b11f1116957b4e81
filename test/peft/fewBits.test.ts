// Methods of few bits: PEQA, packed bases, BI-Adapter, BitDelta and LQ-LoRA against their equations, and what they promise of sizes and errors.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { normalCdf } from '../../core/normal.ts';
import { rng } from '../../core/rng.ts';
import { leaf, paramOf, type Tensor } from '../../core/tensor.ts';
import { context, quiet } from '../../nn/context.ts';
import { realize } from '../../nn/freeze.ts';
import { interpolatePositions } from '../../nn/interpolate.ts';
import type { Model } from '../../nn/layer.ts';
import { mapTensors, tensors, trainable } from '../../nn/tree.ts';
import { sgd } from '../../optim/sgd.ts';
import { trainer } from '../../optim/trainer.ts';
import { biAdapter } from '../../peft/additive/biAdapter.ts';
import { levels } from '../../peft/additive/fewBits.ts';
import { longQlora } from '../../peft/hybrid/longQlora.ts';
import { shiftedAttention } from '../../peft/hybrid/shiftedAttention.ts';
import { svd } from '../../peft/linalg.ts';
import { detach, finish, merge } from '../../peft/merge.ts';
import { bitDelta } from '../../peft/reparameterized/bitDelta.ts';
import { bitDeltaModel, logitDistance, tunedAlready } from '../../peft/reparameterized/bitDeltaModel.ts';
import { dylora } from '../../peft/reparameterized/dylora.ts';
import { atRank } from '../../peft/reparameterized/dyloraRank.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { allocate } from '../../peft/reparameterized/lqBudget.ts';
import { lqLora } from '../../peft/reparameterized/lqLora.ts';
import { split } from '../../peft/reparameterized/lqSplit.ts';
import { peqa } from '../../peft/reparameterized/peqa.ts';
import { qdylora } from '../../peft/reparameterized/qdylora.ts';
import { affineCodes, int4, quantizeAffine } from '../../quant/affine.ts';
import { bytesFor, packBits, packedBits, unpackedBits } from '../../quant/bits.ts';
import { nf4, nf4Code } from '../../quant/nf4.ts';
import { normalFloat, normalFloatValues } from '../../quant/normalFloat.ts';
import { inBlocks, packedPaths, quantize, type Scheme } from '../../quant/quantize.ts';
import { gpt2Network, llamaNetwork, numbersOf, perturb, run } from '../laws/models.ts';
import { affine, apart, each, flat, layerAt, own, random, relu, rowsOf } from './naive.ts';
import { batchOf, trainerOn } from './train.ts';

const engine = float64();
const net = gpt2Network(4);
const Q = 'trunk.blocks.0.attn.q';
const scheme = nf4({ block: 8 });
const heldAt = (t: Tensor): ArrayLike<number> => (t.source.kind === 'leaf' ? t.source.data : []);
const codesOf = (m: Model): string[] =>
  [...tensors(m)].flatMap(({ path, tensor: { source: s } }) => (/weight\.codes$/.test(path) && s.kind === 'leaf' ? [s.data.join()] : []));
/** The network a little changed everywhere; what is tied stays tied. */
const moved = new Map<Tensor, Tensor>();
const tuned = mapTensors(net.base, (t) => {
  const noise = rng(7).split(`${moved.size}`).normal(heldAt(t).length, 0.02);
  const now =
    moved.get(t) ??
    leaf(
      noise.map((v, k) => v + heldAt(t)[k]!),
      t.shape,
    );
  moved.set(t, now);
  return now;
});
const linearAt = async (m: Model, x: ReturnType<typeof random>): Promise<ArrayLike<number>> =>
  engine.read(layerAt(m, 'linear', Q)(x, context(3, { draw: quiet })));

describe('peqa', () => {
  it('is (s + Δs)·(q − z) by group; merged, the same codes with other scales', async () => {
    const model = perturb(peqa({ group: 3, where: `${Q}.weight` })(net.base), 1);
    const [w, p] = [await own(engine, net.base, Q), await own(engine, model, Q)];
    const delta = flat(p['weight.peqa.delta']!); // [8, 3]
    const q = quantizeAffine(flat(w.weight!), [8, 8], 4, 3);
    const codes = affineCodes(q.codes, [8, 8], 4);
    const wanted = rowsOf(
      Array.from(codes, (c, i) => {
        const g = Math.floor(i / 8) * 3 + Math.floor((i % 8) / 3);
        return (q.scales[g]! + delta[g]!) * (c - q.zeros[g]!);
      }),
      8,
    );
    const x = random(2, [1, 3, 8]);
    expect(apart(await linearAt(model, x), flat(affine(rowsOf(await engine.read(x), 8), wanted, flat(w.bias!))))).toBeLessThan(1e-12);
    const merged = await realize(merge(model), engine);
    expect(packedPaths(merged)).toEqual([`${Q}.weight`]);
    expect(apart(await linearAt(merged, x), await linearAt(model, x))).toBeLessThan(1e-6); // its scales are float32
  });
  it('has one scale for each row unless told otherwise; a packed base keeps its codes and groups and starts as it is', async () => {
    const plain = peqa()(net.base);
    expect([...trainable(plain).keys()].reduce((n, p) => n + p.value.length, 0)).toBe(2 * (4 * 8 + 12 + 8));
    const base = quantize(net.base, inBlocks, int4({ group: 4 }));
    const model = peqa()(base);
    expect(codesOf(model)).toEqual(codesOf(base));
    expect(apart(await numbersOf(engine, net, model), await numbersOf(engine, net, base))).toBeLessThan(1e-12);
    expect([...trainable(model).keys()].reduce((n, p) => n + p.value.length, 0)).toBe(2 * (4 * 8 * 2 + 12 * 2 + 8 * 3));
  });
  it('refuses other bits, and a weight with a method on it', () => {
    expect(() => peqa({ bits: 3 as 4 })(net.base)).toThrow('peqa: bits 3 must be 2 or 4');
    expect(() => peqa()(peqa()(net.base))).toThrow('replaces the weight beneath');
  });
});

describe('qdylora and longQlora', () => {
  it('are DyLoRA and LoRA on the quantised network, bit for bit, and come off', async () => {
    const c = { rank: 4, alpha: 3, ranks: [1, 3], where: inBlocks };
    const [one, two] = [qdylora({ ...c, scheme })(net.base), dylora(c)(quantize(net.base, inBlocks, scheme))].map((m) => perturb(m, 3));
    expect([...(await numbersOf(engine, net, one!))]).toEqual([...(await numbersOf(engine, net, two!))]);
    expect([...(await numbersOf(engine, net, detach(one!)))]).toEqual([...(await numbersOf(engine, net, net.base))]);
    expect([...(await numbersOf(engine, net, qdylora({ ...c, scheme })(quantize(net.base, inBlocks, scheme))))]).toEqual([
      ...(await numbersOf(engine, net, quantize(net.base, inBlocks, scheme))),
    ]);
    const long = llamaNetwork(2);
    const l = { rank: 2, alpha: 3, dropout: 0 };
    const [a, b] = [longQlora({ ...l, scheme })(long.base), lora({ ...l, where: inBlocks })(quantize(long.base, inBlocks, scheme))].map(
      (m) => perturb(m, 3),
    );
    expect([...(await numbersOf(engine, long, a!))]).toEqual([...(await numbersOf(engine, long, b!))]);
    expect(() => longQlora()(net.base)).toThrow('no rotary positions');
  });
  it('draws no rank outside the set, and cuts to one', async () => {
    const method = qdylora({ rank: 4, alpha: 3, ranks: [1, 3], scheme, where: (path) => path.startsWith(Q) });
    await using t = await trainerOn(engine, net, method(net.base), { total: 6, optimizer: sgd({ lr: 0.1 }) });
    for (let k = 0; k < 6; k++) await t.step(batchOf(net));
    const after = await t.model();
    const { 'dylora.B': B } = await own(engine, after, Q);
    expect(B!.every((row) => row[0] !== 0 && row[1] !== 0 && row[2] !== 0 && row[3] === 0)).toBe(true);
    expect([...tensors(atRank(after, 3))].find(({ path }) => path.endsWith('lora.A'))!.tensor.shape).toEqual([3, 8]);
    expect(() => qdylora({ rank: 2, ranks: [3] })(net.base)).toThrow('each of ranks 3 must be at least 1 and at most 2');
    expect(() => dylora({ rank: 2, ranks: [] })(net.base)).toThrow('at least one');
  });
  it('LongQLoRA trains longer texts under shifted attention, and gives a model under full attention', async () => {
    const { base } = llamaNetwork(2);
    const model = longQlora({ rank: 2, scheme, embedAndNorm: true })(interpolatePositions(base, 24));
    const text = { ids: { data: Array.from({ length: 24 }, (_, k) => k % 11), shape: [1, 24] } };
    await using t = await trainer<Model, { ids: ReturnType<typeof leaf> }>(shiftedAttention()(model), {
      engine,
      loss: (m, b, ctx) =>
        m({ ids: b.ids, keyMask: null, types: null }, context(24, { draw: ctx.draw }))
          .mul(0.01)
          .mean(),
      optimizer: sgd({ lr: 0.1 }),
    });
    const first = await t.step(text);
    const second = await t.step(text);
    expect(second.loss).toBeLessThan(first.loss);
    expect([...trainable(await t.model(model)).values()].some((p) => p.startsWith('embed'))).toBe(true);
  });
});

describe('bits', () => {
  it('packed on the host or by a recipe, the bytes are the same and give the codes back (seeded)', () =>
    fc.assert(
      fc.asyncProperty(
        fc.constantFrom(1 as const, 2 as const, 4 as const),
        fc.integer({ min: 1, max: 30 }),
        fc.integer(),
        async (bits, n, seed) => {
          const r = rng(seed);
          const codes = Array.from({ length: n }, () => r.below(2 ** bits));
          const bytes = packBits(codes, bits);
          expect([...(await engine.read(packedBits(leaf(codes, [n]), bits)))]).toEqual([...bytes]);
          expect([...(await engine.read(unpackedBits(leaf(bytes, [bytesFor(n, bits)]), bits, n)))]).toEqual(codes);
        },
      ),
      { numRuns: 25 },
    ));
  it('NormalFloat of four bits is NF4; two and eight bits unpack to what the host rounds to', async () => {
    expect(apart(normalFloatValues(4), nf4Code.values)).toBeLessThan(2e-7);
    for (const bits of [2, 8] as const) {
      const s: Scheme = normalFloat({ bits, block: 8 });
      for (const shape of [
        [4, 8],
        [3, 5],
      ] as const) {
        const w = rng(bits).normal(shape[0] * shape[1]);
        expect([...(await engine.read(s.pack(w, shape)()))].map(Math.fround)).toEqual([...s.round(w, shape)]);
      }
    }
  });
});

describe('biAdapter', () => {
  it('has levels at the medians of their cells', () => {
    for (const bits of [1, 2, 4] as const) {
      const v = levels(bits);
      const bounds = [Number.NEGATIVE_INFINITY, ...v.slice(1).map((x, k) => (x + v[k]!) / 2), Number.POSITIVE_INFINITY];
      for (const [k, x] of v.entries()) expect(normalCdf(x)).toBeCloseTo((normalCdf(bounds[k]!) + normalCdf(bounds[k + 1]!)) / 2, 9);
    }
  });
  it('is the equation, with weights of two values; finished, it is their bits', async () => {
    const c = { bottleneck: 3, scale: 2, dropout: 0, where: 'blocks.0.mlp' };
    const model = perturb(biAdapter(c)(net.base), 5);
    const B = 'trunk.blocks.0.mlp';
    const p = await own(engine, model, B);
    const rounded = (m: number[][]): number[][] => {
      const w = flat(m);
      const mean = w.reduce((a, b) => a + b) / w.length;
      const sd = Math.sqrt(w.reduce((s, v) => s + (v - mean) ** 2, 0) / (w.length - 1));
      return each(m, (v) => mean + sd * (v > mean ? 0.674489750196 : -0.674489750196));
    };
    const [down, up] = [rounded(p['biAdapter.down']!), rounded(p['biAdapter.up']!)];
    expect(new Set(flat(down)).size).toBe(2);
    const [x, stream] = [random(1, [1, 3, 8]), random(2, [1, 3, 8])];
    const at = (m: Model): Promise<ArrayLike<number>> =>
      engine.read(layerAt(m, 'branch', B)(x, { ...context(3, { draw: quiet }), residual: { stream, norm: null } }));
    const change = each(affine(each(affine(rowsOf(await engine.read(stream), 8), down), relu), up), (v) => 2 * v);
    const [base, got] = [Array.from(await at(net.base)), await at(model)];
    expect(
      apart(
        got,
        flat(change).map((v, k) => v + base[k]!),
      ),
    ).toBeLessThan(1e-12);
    const done = await realize(finish(model), engine);
    expect(apart(await at(done), got)).toBeLessThan(1e-12);
    const stored = await own(engine, done, B);
    expect([flat(stored['biAdapter.down']!).length, flat(stored['biAdapter.downStats']!).length]).toEqual([3, 2]); // 24 bits
  });
  it('refuses other bits', () => expect(() => biAdapter({ bits: 3 as 4 })(net.base)).toThrow('bits 3 must be 1, 2 or 4'));
});

describe('bitDelta', () => {
  it('is W + α·sign Δ with α = mean |Δ|, which no other scale beats; a tuned model gives the same as its training', async () => {
    const model = (await bitDelta({ where: Q }).prepare(net.base, { engine, train: tunedAlready(tuned, engine) }))(net.base);
    const [w, t, p] = [await own(engine, net.base, Q), await own(engine, tuned, Q), await own(engine, model, Q)];
    const delta = flat(t.weight!).map((v, k) => v - flat(w.weight!)[k]!);
    const alpha = delta.reduce((s, v) => s + Math.abs(v), 0) / 64;
    expect(flat(p['bitDelta.alpha']!)[0]).toBeCloseTo(alpha, 6);
    const left = (a: number): number => delta.reduce((s, v) => s + (v - a * (v < 0 ? -1 : 1)) ** 2, 0);
    for (const a of [0.9, 0.99, 1.01, 1.1]) expect(left(a * alpha)).toBeGreaterThan(left(alpha));
    const x = random(3, [1, 3, 8]);
    const W = rowsOf(
      flat(w.weight!).map((v, k) => v + flat(p['bitDelta.alpha']!)[0]! * (delta[k]! < 0 ? -1 : 1)),
      8,
    );
    expect(apart(await linearAt(model, x), flat(affine(rowsOf(await engine.read(x), 8), W, flat(w.bias!))))).toBeLessThan(1e-12);
    await expect(bitDelta().prepare(net.base, { engine })).rejects.toThrow('bitDelta: its first phase is full fine-tuning');
  });
  it('stands for a tuned model, whose other tensors it keeps; training the scales brings its logits nearer', async () => {
    const model = await bitDeltaModel(net.base, tuned, engine);
    const [there, rest] = [tuned, detach(model)].map((m) => new Map([...tensors(m)].map(({ path, tensor }) => [path, tensor])));
    for (const [path, t] of rest!) expect(t === there!.get(path)).toBe(!/blocks\.\d\.(attn|mlp)\.\w+\.weight/.test(path));
    const d = async (m: Model): Promise<number> => apart(await numbersOf(engine, net, m), await numbersOf(engine, net, tuned));
    expect(await d(model)).toBeLessThan(await d(net.base));
    const loss = logitDistance(tuned);
    await using t = await trainer<Model, { ids: ReturnType<typeof leaf> }>(model, {
      engine,
      loss: (m, b, ctx) => loss(m, { ...net.batch, ids: b.ids }, context(5, { draw: ctx.draw })),
      optimizer: sgd({ lr: 1e-3 }),
    });
    const ids = batchOf(net).ids;
    const first = await t.step({ ids });
    await t.step({ ids });
    expect((await t.step({ ids })).loss).toBeLessThan(first.loss);
  });
});

describe('lqLora', () => {
  it('allocates as the best of all combinations (seeded)', () =>
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 4 }), fc.integer(), (n, m, seed) => {
        const r = rng(seed);
        const table = (most: number): number[][] => Array.from({ length: n }, () => Array.from({ length: m }, () => r.below(most)));
        const [costs, sizes, budget] = [table(50), table(6), r.below(6 * n)];
        const all = Array.from({ length: m ** n }, (_, k) => Array.from({ length: n }, (_, i) => Math.floor(k / m ** i) % m));
        const total = (t: number[][], c: number[]): number => c.reduce((s, k, i) => s + t[i]![k]!, 0);
        const fit = all.filter((c) => total(sizes, c) <= budget);
        if (fit.length === 0) {
          expect(() => allocate(costs, sizes, budget)).toThrow(/the smallest choices need \d+ bits/);
          return;
        }
        const got = allocate(costs, sizes, budget);
        expect(total(sizes, got)).toBeLessThanOrEqual(budget);
        expect(total(costs, got)).toBe(Math.min(...fit.map((c) => total(costs, c))));
      }),
      { numRuns: 60 },
    ));
  it('is the best of rank r in the weighted norm where the weights are a product of rows and columns', () => {
    const r = rng(3);
    const [w, u, v] = [Float64Array.from(r.normal(48)), r.uniform(6, 0.1, 2), r.uniform(8, 0.1, 2)];
    const F = Float64Array.from({ length: 48 }, (_, k) => u[Math.floor(k / 8)]! * v[k % 8]!);
    const nothing: Scheme = { name: 'nothing', pack: scheme.pack, round: (d) => new Float32Array(d.length) };
    const c = { rank: 2, alpha: 3, rankStabilized: false, dropout: 0, iterations: 1, power: null };
    const tail = svd(
      w.map((x, k) => x * Math.sqrt(F[k]!)),
      6,
      8,
      6,
    )
      .s.slice(2)
      .reduce((s, x) => s + x * x, 0);
    expect(split(w, [6, 8], c, nothing, F, r).error).toBeCloseTo(tail, 9);
    const errors = [1, 2, 5, 20].map((iterations) => split(w, [6, 8], { ...c, iterations }, scheme, F, r).error);
    expect(errors.every((e, k) => k === 0 || e <= errors[k - 1]!)).toBe(true);
    expect(split(w, [6, 8], c, scheme, new Float64Array(48), r).error).toBe(0); // no entry matters
  });
  it('packs within its budget, each weight in its own way, and computes Q x + s·B A x', async () => {
    const schemes = [normalFloat({ bits: 2, block: 8 }), scheme, normalFloat({ bits: 8, block: 8 })];
    const options = { rank: 2, alpha: 3, iterations: 3, schemes, where: ['q', 'down'] };
    const bitsAt = async (bits: number | null): Promise<number> => {
      const model = (await lqLora({ ...options, bits }).prepare(net.base, { engine }))(net.base);
      const at = [...tensors(model)].filter(({ path }) => /weight\.(codes|scales\.absmax)$/.test(path));
      return at.reduce((n, { tensor: { source: s } }) => n + (s.kind === 'leaf' ? 8 * s.data.byteLength : 0), 0) / (2 * (64 + 96));
    };
    expect(await bitsAt(null)).toBe(12); // 8 + 32/8
    expect(await bitsAt(9)).toBeLessThanOrEqual(9);
    expect(await bitsAt(9)).toBeGreaterThan(8);
    await expect(lqLora({ ...options, bits: 5 }).prepare(net.base, { engine })).rejects.toThrow(
      /lqLora: bits 5 for each number is less than the smallest of the schemes need, \d/,
    );
    await expect(lqLora({ ...options, dataAware: true }).prepare(net.base, { engine })).rejects.toThrow('lqLora: it chooses by gradients');
    const model = (await lqLora({ ...options, bits: null, where: Q }).prepare(net.base, { engine }))(net.base);
    const [w, p, x] = [await own(engine, net.base, Q), await own(engine, model, Q), random(4, [1, 3, 8])];
    const low = affine(
      p['lqLora.B']!,
      rowsOf(flat(p['lqLora.A']!), 8)[0]!.map((_, j) => p['lqLora.A']!.map((row) => row[j]!)),
    );
    const codes = split(
      Float32Array.from(flat(w.weight!)),
      [8, 8],
      { ...options, rankStabilized: false, dropout: 0, power: null },
      schemes[2]!,
      null,
      rng(0),
    );
    const W = rowsOf(schemes[2]!.round(codes.kept, [8, 8]), 8).map((row, i) => row.map((v, j) => v + 1.5 * low[i]![j]!));
    expect(apart(await linearAt(model, x), flat(affine(rowsOf(await engine.read(x), 8), W, flat(w.bias!))))).toBeLessThan(1e-6);
    expect(paramOf(run(net, model).output)).toBeNull();
  });
});
