// LoRA on embeddings beside its equation and a shared table, and the reflections that DEFT's projection is made of.
import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import { leaf, stateOf } from '../../core/tensor.ts';
import { trainable } from '../../nn/tree.ts';
import { orthonormalAsLapack, product, transposed } from '../../peft/linalg.ts';
import { merge } from '../../peft/merge.ts';
import { deft } from '../../peft/reparameterized/deft.ts';
import { orthonormalColumns } from '../../peft/reparameterized/householder.ts';
import { loraEmbedding } from '../../peft/reparameterized/loraEmbedding.ts';
import { gpt2Network, llamaNetwork, networks, numbersOf, perturb, run, WIDTH } from '../laws/models.ts';
import { apart, own, rowsOf } from './naive.ts';

const engine = float64();

describe('loraEmbedding', () => {
  test.each(networks(4))('changes the rows of the table by s·(B A)ᵀ on $name', async (net) => {
    const model = perturb(loraEmbedding({ rank: 3, alpha: 6 })(net.base), 5);
    const { 'loraEmbedding.A': a, 'loraEmbedding.B': b } = await own(engine, model, 'embed');
    const [then, now] = [(await own(engine, net.base, 'embed')).weight!, (await own(engine, merge(model), 'embed')).weight!];
    const wanted = then.map((row, t) => row.map((v, d) => v + 2 * a!.reduce((s, of, k) => s + of[t]! * b![d]![k]!, 0)));
    expect(apart(now.flat(), wanted.flat())).toBeLessThan(1e-12);
  });

  it('leaves the head of a shared table as it was, attached and merged', async () => {
    const net = gpt2Network(6);
    const model = perturb(loraEmbedding({ rank: 2 })(net.base), 7);
    const merged = merge(model);
    const [then, now] = [(await own(engine, net.base, 'head')).weight!, (await own(engine, merged, 'head')).weight!];
    expect(now).toEqual(then);
    expect((await own(engine, merged, 'embed')).weight).not.toEqual(then);
    expect(apart(await numbersOf(engine, net, merged), await numbersOf(engine, net, model))).toBeLessThan(1e-12);
  });

  it('has gradients for the words of the text alone', async () => {
    const net = llamaNetwork(8);
    const model = perturb(loraEmbedding({ rank: 2 })(net.base), 9);
    const a = [...trainable(model)].find(([, path]) => path.endsWith('.A'))![0];
    const g = rowsOf(await engine.read(grad(run(net, model).loss, [stateOf(a)])[0]!), a.shape[1]!);
    const words = new Set(Array.from(await engine.read(net.batch.ids)));
    const touched = g[0]!.flatMap((_, t) => (g.some((row) => row[t] !== 0) ? [t] : []));
    expect(touched.length).toBeGreaterThan(2);
    expect(touched.every((t) => words.has(t))).toBe(true);
  });

  it('refuses a rank wider than the table, and an alpha of nothing', () => {
    const { base } = gpt2Network(1);
    expect(() => loraEmbedding({ rank: WIDTH + 1 })(base)).toThrow(/loraEmbedding: rank 9 at embed/);
    expect(() => loraEmbedding({ rank: 1, alpha: 0 })(base)).toThrow(/loraEmbedding: alpha 0/);
  });
});

describe('reflections', () => {
  const sizes = fc.tuple(fc.integer({ min: 1, max: 6 }), fc.integer({ min: 0, max: 5 }), fc.nat(1e6)).map(([r, more, seed]) => {
    const n = r + more;
    return { n, r, p: rng(seed).normal(n * r, 1) };
  });
  it('make the columns orthonormal, as a factorisation on the host does, signs included', async () => {
    await fc.assert(
      fc.asyncProperty(sizes, async ({ n, r, p }) => {
        const q = await engine.read(orthonormalColumns(leaf(p, [n, r])));
        const eye = Array.from({ length: r * r }, (_, k) => (k % (r + 1) === 0 ? 1 : 0));
        expect(apart(product(transposed(q, n, r), q, r, n, r), eye)).toBeLessThan(1e-12);
        expect(apart(q, orthonormalAsLapack(p, n, r))).toBeLessThan(1e-9); // as far as a narrow column of random numbers is badly conditioned
        const upper = rowsOf(product(transposed(q, n, r), p, r, n, r), r); // Qᵀ P
        for (const [i, row] of upper.entries()) for (let j = 0; j < i; j++) expect(Math.abs(row[j]!)).toBeLessThan(1e-12);
      }),
      { numRuns: 60 },
    );
  });

  it('DEFT starts as the base at full rank too', async () => {
    const net = gpt2Network(2);
    const model = deft({ rank: WIDTH, alpha: 3, decomposition: 'qr', where: 'q.weight' })(net.base);
    expect(apart(await numbersOf(engine, net, model), await numbersOf(engine, net, net.base))).toBeLessThan(1e-12);
  });

  it("PaRa with a projection leaves nothing of the weight in P's directions, whatever P's length", async () => {
    const net = llamaNetwork(3);
    const model = perturb(deft({ rank: 2, removal: true, decomposition: 'qr', where: 'down.weight' })(net.base), 4);
    const place = 'trunk.blocks.1.mlp.down';
    const { 'weight.deft.P': p } = await own(engine, model, place);
    const { weight } = await own(engine, merge(model), place);
    const left = p![0]!.map((_, k) => weight![0]!.map((_, j) => p!.reduce((s, row, i) => s + row[k]! * weight![i]![j]!, 0))); // Pᵀ W'
    expect(Math.max(...left.flat().map(Math.abs))).toBeLessThan(1e-12);
  });
});
