// MAD-X: the coupling and its inverse, where they stand, and task adapters that change language.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import { leaf } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { decoder, gpt2 } from '../../nn/decoder.ts';
import { freeze } from '../../nn/freeze.ts';
import { BASE, layer, type Model } from '../../nn/layer.ts';
import { substitute, tensors, trainable } from '../../nn/tree.ts';
import { coupled, uncoupled } from '../../peft/additive/coupling.ts';
import { invertible } from '../../peft/additive/invertible.ts';
import { changeLanguage, madx } from '../../peft/additive/madx.ts';
import { pfeiffer } from '../../peft/additive/pfeiffer.ts';
import { detach } from '../../peft/merge.ts';
import { bertNetwork, gpt2Network, numbersOf, perturb, run, WIDTH } from '../laws/models.ts';
import { affine, apart, each, layerAt, own, plus, random, relu, rowsOf, trained } from './naive.ts';

const engine = float64();
const c = { reduction: 2, activation: 'relu' as const, inverse: true, init: 'bert' as const };
const nets = (d: number): { F: ReturnType<typeof random>[]; G: ReturnType<typeof random>[] } => {
  const [a, b] = [Math.floor(d / 2), Math.ceil(d / 2)];
  const net = (from: number, to: number, s: number): ReturnType<typeof random>[] => [
    random(s, [2, from]),
    random(s + 1, [2]),
    random(s + 2, [to, 2]),
    random(s + 3, [to]),
  ];
  return { F: net(b, a, 10), G: net(a, b, 20) };
};

test.each([8, 7])('width %i: o₁ = e₁ + F(e₂), o₂ = e₂ + G(o₁), the inverse takes it back, and the volume is 1', async (d) => {
  const p = nets(d);
  const e = random(1, [1, 3, d]);
  const o = coupled(e, p, c);
  expect(apart(await engine.read(uncoupled(o, p, c)), await engine.read(e))).toBeLessThan(1e-12);
  expect(apart(await engine.read(coupled(uncoupled(e, p, c), p, c)), await engine.read(e))).toBeLessThan(1e-12);
  const half = Math.floor(d / 2);
  const rows = rowsOf(await engine.read(e), d);
  const values = await Promise.all(
    [p.F, p.G].map((all) => Promise.all(all.map(async (t) => rowsOf(await engine.read(t), t.shape.at(-1)!)))),
  );
  const [F, G] = values.map(
    ([w1, b1, w2, b2]) =>
      (x: number[][]): number[][] =>
        affine(each(affine(x, w1!, b1!.flat()), relu), w2!, b2!.flat()),
  );
  const [e1, e2] = [rows.map((r) => r.slice(0, half)), rows.map((r) => r.slice(half))];
  const o1 = plus(e1, F!(e2));
  const o2 = plus(e2, G!(o1));
  expect(
    apart(
      await engine.read(o),
      o1.flatMap((row, t) => [...row, ...o2[t]!]),
    ),
  ).toBeLessThan(1e-12);
  const one = leaf((await engine.read(e.slice(1, 0, 1))).slice(), [1, 1, d]);
  const jacobian: number[][] = [];
  for (let i = 0; i < d; i++)
    jacobian.push(
      Array.from(
        await engine.read(
          grad(
            coupled(one, p, c)
              .slice(2, i, i + 1)
              .reshape(),
            [one],
          )[0]!,
        ),
      ),
    );
  expect(determinant(jacobian)).toBeCloseTo(1, 10);
});
const determinant = (m: number[][]): number => {
  if (m.length === 0) return 1;
  const k = m.reduce((best, row, i) => (Math.abs(row[0]!) > Math.abs(m[best]![0]!) ? i : best), 0);
  const pivot = m[k]!;
  const rest = m.filter((_, i) => i !== k).map((row) => row.slice(1).map((v, j) => v - (row[0]! / pivot[0]!) * pivot[j + 1]!));
  return (k % 2 === 0 ? 1 : -1) * pivot[0]! * determinant(rest);
};

test.each([gpt2Network(3), bertNetwork(3)])(
  '$name: applied to what enters the first block, undone on what leaves the trunk',
  async (net) => {
    const model = perturb(invertible({ activation: 'silu' })(net.base), 1);
    const p = layerAt(model, 'trunk', 'trunk').fields.invertible as ReturnType<typeof nets>;
    const s = { ...c, activation: 'silu' as const };
    const byHand = substitute(net.base, 'trunk', (t) => {
      const inside = substitute(t, 'block', (l, path) =>
        path !== 'blocks.0' ? null : layer('block', { [BASE]: l }, () => (h, ctx) => l(coupled(h, p, s), ctx)),
      );
      return layer('trunk', { [BASE]: t }, () => (h, ctx) => uncoupled(inside(h, ctx), p, s));
    });
    expect(apart(await numbersOf(engine, net, model), await numbersOf(engine, net, byHand))).toBe(0);
    const oneWay = await numbersOf(engine, net, perturb(invertible({ activation: 'silu', inverse: false })(net.base), 1));
    expect(apart(oneWay, await numbersOf(engine, net, model))).toBeGreaterThan(1e-3);
  },
);

test('a last layer of zeros is the identity; count for even and odd widths; no units is refused', async () => {
  const net = gpt2Network(1);
  expect(apart(await numbersOf(engine, net, invertible({ init: 'zero' })(net.base)), await numbersOf(engine, net, net.base))).toBe(0);
  const [h, u] = [WIDTH / 2, WIDTH / 4];
  expect(trained(invertible()(net.base))).toBe(2 * (2 * h * u + u + h));
  const odd = freeze(decoder(gpt2({ vocabulary: 5, width: 9, layers: 1, heads: 3, positions: 4 }), rng(1)));
  expect(trained(invertible()(odd))).toBe(5 * 2 + 2 + 2 * 4 + 4 + (4 * 2 + 2 + 2 * 5 + 5));
  expect(() => invertible({ reduction: 5 })(net.base)).toThrow(/reduction 5 at trunk must be more than 0 and at most 4/);
});

test('a task adapter on a frozen language reads what the language adapter answers, alone trains, and changes language', async () => {
  const net = bertNetwork(2);
  const [french, thai] = [1, 2].map((s) => freeze(perturb(madx({ adapter: { bottleneck: 3 } })(net.base), s))) as [Model, Model];
  const task = perturb(pfeiffer({ bottleneck: 2 })(french), 3);
  expect([...trainable(task).values()].every((path) => path.includes('.pfeiffer2.'))).toBe(true);
  const moved = changeLanguage(task, thai);
  const expected = perturb(pfeiffer({ bottleneck: 2 })(thai), 3); // the same values: they follow from the path
  expect(apart(await numbersOf(engine, net, moved), await numbersOf(engine, net, expected))).toBe(0);
  const back = changeLanguage(moved, french);
  expect(await numbersOf(engine, net, back)).toEqual(await numbersOf(engine, net, task));
  expect(await numbersOf(engine, net, detach(moved))).toEqual(await numbersOf(engine, net, net.base));
  expect(new Set([...tensors(moved)].map((t) => t.path))).toEqual(new Set([...tensors(task)].map((t) => t.path)));

  // the order: language first, then task, each reading norm(h + u) of what is beneath it
  const path = 'trunk.blocks.1.mlp';
  const x = random(5, [1, 3, WIDTH]);
  const stream = random(6, [1, 3, WIDTH]);
  const ctx = { ...context(3), residual: { stream, norm: null } };
  const at = async (m: Model): Promise<number[][]> => rowsOf(await engine.read(layerAt(m, 'branch', path)(x, ctx)), WIDTH);
  const language = await at(french);
  const p = await own(engine, task, `${path}.pfeiffer2`);
  const z = plus(language, rowsOf(await engine.read(stream), WIDTH));
  const answer = plus(language, affine(each(affine(z, p.down!, p.downBias!.flat()), relu), p.up!, p.upBias!.flat()));
  expect(apart((await at(task)).flat(), answer.flat())).toBeLessThan(1e-12);
  expect(run(net, task).loss.shape).toEqual([]);
});

test('refused: no task adapter to move', () => {
  const net = gpt2Network(1);
  const language = madx()(net.base);
  expect(() => changeLanguage(language, language)).toThrow(/no branch of this model has a task adapter/);
});
