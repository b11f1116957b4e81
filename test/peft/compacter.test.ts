// Compacter against Kronecker products written out, its counts, and the identities of PHM layers.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { concat } from '../../core/ops/move.ts';
import { leaf, stateOf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { trainable } from '../../nn/tree.ts';
import { compacter, compacterPlusPlus } from '../../peft/additive/compacter.ts';
import { phm } from '../../peft/additive/phm.ts';
import { gpt2Network, llamaNetwork, perturb, run, WIDTH } from '../laws/models.ts';
import { affine, apart, each, layerAt, type Matrix, own, plus, random, relu, rowsOf, trained } from './naive.ts';

const engine = float64();
const kron = (a: Matrix, b: Matrix): number[][] => a.flatMap((ra) => b.map((rb) => ra.flatMap((x) => rb.map((y) => x * y))));
const times = (a: Matrix, b: Matrix): number[][] => a.map((row) => b[0]!.map((_, j) => row.reduce((s, v, k) => s + v * b[k]![j]!, 0)));
const transposed = (m: Matrix): number[][] => m[0]!.map((_, j) => m.map((row) => row[j]!));
/** Rows of a [n, rows, cols] table as n matrices. */
const slices = (m: Matrix, n: number): number[][][] =>
  Array.from({ length: n }, (_, i) => m.slice((i * m.length) / n, ((i + 1) * m.length) / n) as number[][]);
/** Σ A_i ⊗ (S_i T_i), all written out. */
const dense = (A: Matrix, S: Matrix, T: Matrix, n: number): number[][] =>
  slices(A, n)
    .map((a, i) => kron(a, times(slices(S, n)[i]!, slices(T, n)[i]!)))
    .reduce(plus);

test('phm is the sum of Kronecker products, A ⊗ B and not B ⊗ A; one factor of full rank is any matrix', async () => {
  const [A, S, T] = [random(1, [2, 2, 2]), random(2, [2, 3, 1]), random(3, [2, 1, 2])];
  const rows = await Promise.all([A, S, T].map(async (t) => rowsOf(await engine.read(t), t.shape.at(-1)!)));
  const H = dense(rows[0]!, rows[1]!, rows[2]!, 2);
  const made = phm(A, S, T);
  expect(made.shape).toEqual([6, 4]);
  expect(apart(await engine.read(made), H.flat())).toBeLessThan(1e-12);
  const flipped = slices(rows[0]!, 2)
    .map((a, i) => kron(times(slices(rows[1]!, 2)[i]!, slices(rows[2]!, 2)[i]!), a))
    .reduce(plus);
  expect(apart(flipped.flat(), H.flat())).toBeGreaterThan(0.1);
  const [W, I] = [random(4, [1, 3, 5]), leaf([1, 0, 0, 0, 1, 0, 0, 0, 1], [1, 3, 3])];
  expect(apart(await engine.read(phm(leaf([1], [1, 1, 1]), I, W)), await engine.read(W))).toBe(0);
});

test('mixed product: (A ⊗ B)(C ⊗ D) = AC ⊗ BD, as two PHM layers of one term in a row', async () => {
  const square = (s: number): Tensor => random(s, [1, 2, 2]);
  const [B, D, I] = [random(3, [1, 2, 2]), random(4, [1, 2, 2]), leaf([1, 0, 0, 1], [1, 2, 2])];
  const both = (a: Tensor, b: Tensor): Tensor => concat([a, b], 0);
  // n = 2 with the second term zero is A ⊗ B alone
  const one = (a: Tensor, b: Tensor): Tensor => {
    const zero = leaf([0, 0, 0, 0], [1, 2, 2]);
    return phm(both(a, zero), both(I, I), both(b, zero));
  };
  const [A, C] = [square(1), square(2)];
  expect(apart(await engine.read(one(A, B).matmul(one(C, D))), await engine.read(one(A.matmul(C), B.matmul(D))))).toBeLessThan(1e-12);
});

test("h' = h + σ(h H_down + b) H_up + b after both sublayers, with the Kronecker sums written out", async () => {
  const net = llamaNetwork(3);
  const n = 2;
  const model = perturb(compacter({ n, rank: 2, bottleneck: 4, activation: 'relu' })(net.base), 1);
  for (const path of ['trunk.blocks.0.attn', 'trunk.blocks.1.mlp']) {
    const x = random(5, [2, 3, WIDTH]);
    const h = rowsOf(await engine.read(layerAt(net.base, 'branch', path)(x, context(3))), WIDTH);
    const p = await own(engine, model, `${path}.compacter`);
    const inner = each(affine(h, transposed(dense(p.A!, p.downS!, p.downT!, n)), p.downBias!.flat()), relu);
    const expected = plus(h, affine(inner, transposed(dense(p.A!, p.upS!, p.upT!, n)), p.upBias!.flat()));
    expect(apart(await engine.read(layerAt(model, 'branch', path)(x, context(3))), expected.flat())).toBeLessThan(1e-12);
  }
});

test('A is one parameter of all layers: its gradient is the sum of what each of them gives it', async () => {
  const net = gpt2Network(2);
  const model = perturb(compacter({ n: 2, bottleneck: 4, std: 0.5 })(net.base), 1);
  const shared = [...trainable(model)].filter(([, path]) => path.endsWith('.A'));
  expect(shared.length).toBe(1);
  const A = stateOf(shared[0]![0]);
  const { loss } = run(net, model);
  const [g] = grad(loss, [A]);
  const h = 1e-5;
  const store = engine.store();
  const plan = await engine.compile(store, { outputs: { loss } });
  const at = async (t: number): Promise<number> => {
    store.write(new Map([[shared[0]![0], Float64Array.from(shared[0]![0].value, (v, i) => v + (i === 3 ? t : 0))]]));
    return (await plan.run()).loss[0]!;
  };
  expect((await engine.read(g!))[3]).toBeCloseTo(((await at(h)) - (await at(-h))) / (2 * h), 8);
});

test('count: n³ + 2L(2k(d + m) + m + d), Compacter++ with L; A starts near 0', () => {
  const { base } = gpt2Network(1);
  const [n, k, d, m, L] = [2, 3, WIDTH, 4, 2];
  const at = 2 * k * (d + m) + m + d;
  expect(trained(compacter({ n, rank: k, bottleneck: m })(base))).toBe(n ** 3 + 2 * L * at);
  expect(trained(compacterPlusPlus({ n, rank: k, bottleneck: m })(base))).toBe(n ** 3 + L * at);
  const t5 = compacter.method.count(Array.from({ length: 24 }, () => ({ dim: () => 768 })) as never, compacter.method.defaults);
  expect(t5.train).toBe(64 + 24 * (2 * (768 + 24) + 24 + 768));
  const [A] = [...trainable(compacter({ n, bottleneck: m })(base))].find(([, p]) => p.endsWith('.A'))!;
  expect(Math.max(...Array.from(A.value, Math.abs))).toBeLessThan(1e-3);
});

test('refused: n that divides neither width nor bottleneck, A of zeros', () => {
  const { base } = gpt2Network(1);
  expect(() => compacter({ n: 3, bottleneck: 3 })(base)).toThrow(/n 3 at trunk.blocks.0.attn must divide the width 8/);
  expect(() => compacter({ n: 4, bottleneck: 6 })(base)).toThrow(/must divide the bottleneck 6/);
  expect(() => compacter({ n: 2, bottleneck: 4, std: 0 })(base)).toThrow(/std 0 must be more than 0/);
});
