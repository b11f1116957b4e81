// Where LoRA may start: OLoRA, EVA, CorDA, LoRA-GA and LoRA-XS against their definitions.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { blank, isBlank } from '../../core/blank.ts';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { decoder, llama } from '../../nn/decoder.ts';
import { freeze, unfreeze } from '../../nn/freeze.ts';
import type { Batch, Model } from '../../nn/layer.ts';
import { nextToken } from '../../nn/losses.ts';
import { tensors } from '../../nn/tree.ts';
import { columnLengths, length, product, rowLengths, svd, transposed } from '../../peft/linalg.ts';
import { inputsOf } from '../../peft/observe.ts';
import { afterRows, type Principal } from '../../peft/pca.ts';
import { corda } from '../../peft/reparameterized/corda.ts';
import { eva } from '../../peft/reparameterized/eva.ts';
import { evaRanks } from '../../peft/reparameterized/evaRanks.ts';
import { loraGa } from '../../peft/reparameterized/loraGa.ts';
import { loraXs } from '../../peft/reparameterized/loraXs.ts';
import { olora } from '../../peft/reparameterized/olora.ts';
import { asLora } from '../../peft/reparameterized/pissa.ts';
import { gpt2Network, numbersOf, perturb, run } from '../laws/models.ts';
import { affine, apart, flat, layerAt, own, plus, random, rowsOf } from './naive.ts';

const engine = float64();
const net = gpt2Network(4);
const { base } = net;
const Q = 'trunk.blocks.1.attn.q';
const config = { rank: 2, alpha: 3 };
const S = 3 / 2;
const env = { engine, batches: [net.batch], loss: (m: Model) => run(net, m).loss };
const array = (m: readonly (readonly number[])[]): Float64Array => Float64Array.from(m.flat());
const W = async (m: Model = base) => array((await own(engine, m, Q)).weight!);
const minus = (a: Float64Array, b: Float64Array) => a.map((v, k) => v - b[k]!);
const gram = (b: Float64Array, n: number, k: number) => product(transposed(b, n, k), b, k, n, k);
const identity = (k: number): number[] => Array.from({ length: k * k }, (_, i) => (i % (k + 1) === 0 ? 1 : 0));
/** What Q is given for the tokens that are not padding. */
const inputs = async (batch: Batch = net.batch): Promise<number[][]> => {
  const [x] = inputsOf(base, new Set([Q]), batch).get(Q)!;
  return rowsOf((await engine.read(x!)).slice(), 8).filter((_, k) => k < 8);
};

describe('inputs of a layer', () => {
  it('are what it is called with: from them it computes what it computes in the network', async () => {
    const [x] = inputsOf(base, new Set([Q]), net.batch).get(Q)!;
    expect(x!.shape).toEqual([2, 5, 8]);
    expect(() => inputsOf(base, new Set(['nowhere']), net.batch)).toThrow(/nowhere is not called/);
  });
});

describe('olora', () => {
  it('W = Q R: B is orthonormal, A = Bᵀ W is upper triangular, and the base keeps W − s·B A', async () => {
    const model = olora(config)(base);
    const p = await own(engine, model, Q);
    const [a, b, w] = [array(p['olora.A']!), array(p['olora.B']!), await W()];
    expect(apart(gram(b, 8, 2), identity(2))).toBeLessThan(1e-12);
    expect(apart(product(transposed(b, 8, 2), w, 2, 8, 8), a)).toBeLessThan(1e-12);
    expect(Math.abs(p['olora.A']![1]![0]!)).toBeLessThan(1e-12);
    expect(
      apart(
        array(p.weight!),
        minus(
          w,
          product(b, a, 8, 2, 8).map((v) => S * v),
        ),
      ),
    ).toBeLessThan(1e-12);
    // the first two columns of W lie in the span of B, so Q R restores them
    const restored = rowsOf(product(b, a, 8, 2, 8), 8);
    for (const [o, row] of rowsOf(w, 8).entries()) for (const i of [0, 1]) expect(restored[o]![i]!).toBeCloseTo(row[i]!, 12);
  });
  it('y = W_res x + b + s·B A x', async () => {
    const model = perturb(olora(config)(base), 1);
    const x = random(1, [3, 8]);
    const [p, xs] = [await own(engine, model, Q), rowsOf(await engine.read(x), 8)];
    const branch = affine(affine(xs, p['olora.A']!), p['olora.B']!).map((row) => row.map((v) => S * v));
    expect(
      apart(await engine.read(layerAt(model, 'linear', Q)(x, context(3))), flat(plus(affine(xs, p.weight!, p.bias![0]), branch))),
    ).toBeLessThan(1e-12);
  });
  it('olora, corda and loraGa become plain LoRA of twice the rank on the untouched base', async () => {
    for (const make of [olora(config), await corda(config).prepare(base, env), await loraGa(config).prepare(base, env)]) {
      const model = perturb(make(base), 1);
      const plain = asLora(model, make.title);
      expect(apart(await numbersOf(engine, net, plain), await numbersOf(engine, net, model)), make.title).toBeLessThan(1e-9);
      const frozen = new Set([...tensors(base)].map(({ tensor }) => tensor));
      for (const { path, tensor } of tensors(plain)) if (!path.includes('.lora')) expect(frozen.has(tensor), path).toBe(true);
    }
  });
});

describe('eva', () => {
  it('rows in batches have the principal directions of the rows together (seeded)', () =>
    fc.assert(
      fc.property(fc.integer(), fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 4 }), (seed, sizes) => {
        const [r, width] = [rng(seed), 5];
        const batches = sizes.map((m) => Float64Array.from(r.normal(m * width, 1, 2)));
        const end = batches.reduce<Principal | null>((known, rows) => afterRows(known, rows, width, width), null)!;
        const all = Float64Array.from(batches.flatMap((b) => [...b]));
        const n = all.length / width;
        const mean = Array.from({ length: width }, (_, i) => all.reduce((s, v, k) => (k % width === i ? s + v / n : s), 0));
        const centred = all.map((v, k) => v - mean[k % width]!);
        expect(end.n).toBe(n);
        expect(apart(end.mean, mean)).toBeLessThan(1e-12);
        expect(end.total).toBeCloseTo(
          centred.reduce((s, v) => s + v * v, 0),
          9,
        );
        // same scatter, whatever the signs: Vᵀ S² V
        const scatter = (s: Float64Array, vt: Float64Array) =>
          product(
            transposed(
              vt.map((v, k) => v * s[Math.floor(k / width)]!),
              s.length,
              width,
            ),
            vt.map((v, k) => v * s[Math.floor(k / width)]!),
            width,
            s.length,
            width,
          );
        expect(Math.hypot(...minus(scatter(end.s, end.vt), product(transposed(centred, n, width), centred, width, n, width)))).toBeLessThan(
          1e-9 * Math.max(1, end.total),
        );
      }),
      { numRuns: 40 },
    ));
  it('A is the top directions of the centred inputs without padding, orthonormal; B is zero, the weight untouched', async () => {
    const model = (await eva(config).prepare(base, env))(base);
    const p = await own(engine, model, Q);
    const xs = await inputs();
    const mean = xs[0]!.map((_, i) => xs.reduce((s, row) => s + row[i]! / xs.length, 0));
    const centred = Float64Array.from(xs.flatMap((row) => row.map((v, i) => v - mean[i]!)));
    const { vt } = svd(centred, xs.length, 8, 2);
    const a = array(p['eva.A']!);
    for (const j of [0, 1]) expect(Math.abs(a.subarray(8 * j, 8 * j + 8).reduce((s, v, i) => s + v * vt[8 * j + i]!, 0))).toBeCloseTo(1, 9);
    expect(apart(gram(transposed(a, 2, 8), 8, 2), identity(2))).toBeLessThan(1e-10);
    expect(flat(p['eva.B']!).every((v) => v === 0)).toBe(true);
    expect(array(p.weight!)).toEqual(await W());
  });
  it('several batches go in one after the other, and the ones after it has settled do not count', async () => {
    const other: Batch = { ids: leaf([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], [2, 5]), keyMask: null };
    const A = async (batches: readonly Batch[], tau = 1) =>
      array((await own(engine, (await eva({ ...config, tau }).prepare(base, { engine, batches }))(base), Q))['eva.A']!);
    expect(apart(await A([net.batch, other]), await A([net.batch]))).toBeGreaterThan(1e-3);
    expect([...(await A([net.batch, net.batch, other], 0.99))]).toEqual([...(await A([net.batch, net.batch], 0.99))]); // the second changed nothing
  });
  it('ranks go to the layers whose directions explain most, n·r of them, at most ρ·r each', async () => {
    const where = ['q', 'down'];
    const { ranks, where: used } = await evaRanks(base, env, { rank: 2, rho: 2, where });
    const n = Object.values(ranks);
    expect(n.reduce((a, b) => a + b)).toBe(4 * 2);
    expect(Math.max(...n)).toBeLessThanOrEqual(4);
    const model = (await eva({ ...config, ranks, where: used }).prepare(base, env))(base);
    for (const path of used) expect([...tensors(model)].find((t) => t.path === `${path}.eva.A`)!.tensor.shape[0]).toBe(ranks[path]);
    const one = await evaRanks(base, env, { rank: 2, rho: 1, where });
    expect(new Set(Object.values(one.ranks))).toEqual(new Set([2]));
  });
  it('says what is missing', async () => {
    expect(() => eva(config)(base)).toThrow(/eva: needs numbers from the model/);
    await expect(eva(config).prepare(base, { engine })).rejects.toThrow(/eva: .*some batches/);
    await expect(eva({ rank: 8 }).prepare(base, env)).rejects.toThrow(/too few for rank 8/); // eight tokens differ from their mean in seven directions
  });
});

describe('corda', () => {
  for (const keep of ['first', 'last'] as const)
    it(`with the input's covariance C, s·B A C has the ${keep} directions of W C, and W_res + s·B A = W`, async () => {
      const model = (await corda({ ...config, keep }).prepare(base, env))(base);
      const p = await own(engine, model, Q);
      const w = await W();
      const change = product(array(p['corda.B']!), array(p['corda.A']!), 8, 2, 8).map((v) => S * v);
      expect(apart(minus(w, change), array(p.weight!))).toBeLessThan(1e-12);
      const xs = await inputs();
      const top = Math.max(...xs.flat().map(Math.abs));
      const X = Float64Array.from(xs.flat(), (v) => v / top);
      const C = product(transposed(X, 8, 8), X, 8, 8, 8);
      const mean = identity(8).reduce((s, on, k) => s + (on * C[k]!) / 8, 0);
      const damped = C.map((v, k) => v + 0.01 * mean * identity(8)[k]!);
      const seen = (m: Float64Array) => product(m, damped, 8, 8, 8);
      const [all, mine] = [svd(seen(w), 8, 8, 8).s, svd(seen(change), 8, 8, 8).s];
      expect(apart(mine.subarray(0, 2), keep === 'first' ? all.subarray(0, 2) : all.subarray(6))).toBeLessThan(1e-6);
      expect(mine[2]! / mine[0]!).toBeLessThan(keep === 'first' ? 1e-12 : 1e-6);
    });
  it('is as good with 400 inputs, whose covariance has more numbers than a call takes arguments', async () => {
    const sizes = { vocabulary: 5, width: 8, layers: 1, heads: 1, inner: 400, positions: 4 };
    const wide = freeze(decoder(llama(sizes), rng(1)));
    const batch = { ids: leaf([0, 1, 2, 3], [1, 4]), targets: leaf([1, 2, 3, 4], [1, 4]) };
    const given = { engine, batches: [batch], loss: (m: Model, b: Batch) => nextToken(m, b as typeof batch, context(4)) };
    const p = await own(engine, (await corda({ ...config, where: 'down' }).prepare(wide, given))(wide), 'trunk.blocks.0.mlp.down');
    const w = array((await own(engine, wide, 'trunk.blocks.0.mlp.down')).weight!);
    const change = product(array(p['corda.B']!), array(p['corda.A']!), 8, 2, 400).map((v) => S * v);
    expect(apart(minus(w, change), array(p.weight!))).toBeLessThan(1e-12);
    expect(length(change)).toBeGreaterThan(0);
  });
});

describe('matrices of a network without numbers', () => {
  it('have factors without numbers, of the right sizes', () => {
    const w = blank().normal(3000 * 2000);
    const { u, s, vt } = svd(w, 3000, 2000, 5);
    expect([u.length, s.length, vt.length]).toEqual([15_000, 5, 10_000]);
    expect(product(w, vt, 3000, 2000, 5)).toHaveLength(15_000);
    for (const m of [u, s, vt, product(w, vt, 3000, 2000, 5)]) expect(isBlank(m)).toBe(true);
    expect(isBlank(new Float32Array(3))).toBe(false);
  });
  it('lengths are what they are by hand, for rows, columns and the whole', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 6 }), fc.integer({ min: 1, max: 6 }), fc.integer(), (n, m, seed) => {
        const w = rng(seed).normal(n * m);
        const at = (i: number, j: number): number => w[i * m + j]!;
        const [rows, cols] = [Array.from({ length: n }, (_, i) => i), Array.from({ length: m }, (_, j) => j)];
        expect(
          apart(
            rowLengths(w, n, m),
            rows.map((i) => Math.hypot(...cols.map((j) => at(i, j)))),
          ),
        ).toBeLessThan(1e-12);
        expect(
          apart(
            columnLengths(w, n, m),
            cols.map((j) => Math.hypot(...rows.map((i) => at(i, j)))),
          ),
        ).toBeLessThan(1e-12);
        expect(length(w)).toBeCloseTo(Math.hypot(...w), 12);
      }),
    );
    expect(length(new Float64Array(400_000).fill(0.5))).toBeCloseTo(Math.sqrt(100_000), 9); // Math.hypot has no place for that many
  });
});

describe('loraGa', () => {
  it('A and B are the directions of the weight’s gradient, scaled by out^{1/4}/√γ; the base keeps W − s·B A', async () => {
    const model = (await loraGa({ ...config, gamma: 4 }).prepare(base, env))(base);
    const p = await own(engine, model, Q);
    const [a, b] = [array(p['loraGa.A']!), array(p['loraGa.B']!)];
    const free = unfreeze(base, (path) => path === `${Q}.weight`);
    const weight: Tensor = [...tensors(free)].find((t) => t.path === `${Q}.weight`)!.tensor;
    const [g] = grad(run(net, free).loss, [weight]);
    const { u, vt } = svd((await engine.read(g!)).slice(), 8, 8, 4);
    const c = 8 ** 0.25 / 2;
    for (const j of [0, 1]) {
      expect(Math.abs(vt.subarray(8 * j, 8 * j + 8).reduce((s, v, i) => s + v * a[8 * j + i]!, 0))).toBeCloseTo(c, 9);
      expect(Math.abs(Array.from({ length: 8 }, (_, o) => u[4 * o + 2 + j]! * b[2 * o + j]!).reduce((s, v) => s + v, 0))).toBeCloseTo(c, 9);
    }
    expect(
      apart(
        minus(
          await W(),
          product(b, a, 8, 2, 8).map((v) => S * v),
        ),
        array(p.weight!),
      ),
    ).toBeLessThan(1e-12);
  });
  it('its first step of gradient descent moves the weight nearer to the gradient than LoRA’s does', async () => {
    // s²(B Bᵀ G + G AᵀA) is what a small step subtracts; the cosine with G itself
    const model = (await loraGa(config).prepare(base, env))(base);
    const p = await own(engine, model, Q);
    const free = unfreeze(base, (path) => path === `${Q}.weight`);
    const [g] = grad(run(net, free).loss, [[...tensors(free)].find((t) => t.path === `${Q}.weight`)!.tensor]);
    const G = Float64Array.from(await engine.read(g!));
    const moved = (a: Float64Array, b: Float64Array) => {
      const [left, right] = [
        product(product(b, transposed(b, 8, 2), 8, 2, 8), G, 8, 8, 8),
        product(G, product(transposed(a, 2, 8), a, 8, 2, 8), 8, 8, 8),
      ];
      return left.map((v, k) => v + right[k]!);
    };
    const cosine = (m: Float64Array) => m.reduce((s, v, k) => s + v * G[k]!, 0) / Math.hypot(...m) / Math.hypot(...G);
    const mine = cosine(moved(array(p['loraGa.A']!), array(p['loraGa.B']!)));
    const plain = cosine(moved(Float64Array.from(rng(1).uniform(16, -1, 1)), new Float64Array(16)));
    expect(mine).toBeGreaterThan(plain);
    expect(mine).toBeGreaterThan(0.8);
  });
  it('refuses a rank of which twice as many directions do not exist, and data that is not there', async () => {
    expect(() => loraGa({ rank: 5 })(base)).toThrow(/loraGa: rank 5 .* needs 10 directions of a gradient that has 8/);
    await expect(loraGa(config).prepare(base, { engine, batches: [net.batch] })).rejects.toThrow(/loraGa: it starts from gradients/);
  });
});

describe('loraXs', () => {
  for (const split of ['input', 'both'] as const)
    it(`y = W x + b + s·B R A x between the weight's principal directions, fixed (${split})`, async () => {
      const model = perturb(loraXs({ ...config, split })(base), 1);
      const x = random(1, [3, 8]);
      const [p, xs] = [await own(engine, model, Q), rowsOf(await engine.read(x), 8)];
      const branch = affine(affine(affine(xs, p['loraXs.A']!), p['loraXs.R']!), p['loraXs.B']!).map((row) => row.map((v) => S * v));
      expect(
        apart(await engine.read(layerAt(model, 'linear', Q)(x, context(3))), flat(plus(affine(xs, p.weight!, p.bias![0]), branch))),
      ).toBeLessThan(1e-12);
      const { s } = svd(await W(), 8, 8, 2);
      expect(apart(svd(product(array(p['loraXs.B']!), array(p['loraXs.A']!), 8, 2, 8), 8, 8, 2).s, s)).toBeLessThan(1e-12); // R = I is the best rank r
      expect(apart(svd(array(p['loraXs.B']!), 8, 2, 2).s, split === 'input' ? [1, 1] : s.map(Math.sqrt))).toBeLessThan(1e-12);
    });
  it('trains r² per layer, whatever its size', () => {
    const sites = [{ shape: [3072, 3072] }, { shape: [1024, 3072] }] as never;
    expect(loraXs.method.count(sites, { rank: 16 }).train).toBe(2 * 256);
  });
});
