// The eight combinators: their algebra, all laws of a method on each, and what they refuse.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import type { Shape } from '../../core/shape.ts';
import { leaf } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { freeze, realize, withValues } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { mapTensors, params, tensors } from '../../nn/tree.ts';
import { houlsby } from '../../peft/additive/houlsby.ts';
import { ia3 } from '../../peft/additive/ia3.ts';
import { average, fuse, gate, mask, parallel, route, split, stack } from '../../peft/combinators.ts';
import { merge } from '../../peft/merge.ts';
import type { Transform } from '../../peft/method.ts';
import { adalora } from '../../peft/reparameterized/adalora.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { vera } from '../../peft/reparameterized/vera.ts';
import { attentionOnly } from '../../peft/selective/attentionOnly.ts';
import { bitfit } from '../../peft/selective/bitfit.ts';
import { caseOf } from '../laws/methodCase.ts';
import { laws } from '../laws/methodLaws.ts';
import { gpt2Network, llamaNetwork, numbersOf, perturb } from '../laws/models.ts';
import { combined } from './combined.ts';
import { affine, apart, layerAt, type Matrix, own, plus, random, rowsOf, scaled, softmax } from './naive.ts';

const engine = float64();
/** The rules that are no part of the hybrid; each for itself, and on all networks: combinators.long.test.ts. */
const QUICK: ReadonlySet<string> = new Set(['average', 'route', 'split', 'a hybrid of them']);
const net = llamaNetwork(61);
const read = (m: Model) => numbersOf(engine, net, m);
/** A method whose trained tensors stand at generic values: attached, moved, and from then on itself. */
const moved = (t: Transform, seed: number): Transform =>
  Object.assign((m: Model): Model => perturb(t(m), seed), { title: t.title, parts: t.parts, prepare: t.prepare });
const a = moved(lora({ rank: 2, seed: 1 }), 1);
const b = moved(lora({ rank: 3, alpha: 5, seed: 2, where: ['q', 'down'] }), 2);
const c = moved(ia3({ where: ['q', 'v'] }), 3);
/** The same, frozen, so that moving the next one leaves it alone. */
const still = (t: Transform, seed: number): Transform =>
  Object.assign((m: Model): Model => freeze(perturb(t(m), seed)), { title: t.title, parts: t.parts, prepare: t.prepare });
const on = (t: Transform): Model => t(net.base);
/** The model with other numbers in its parameters, by path. */
const set = (m: Model, f: (path: string, v: Float64Array) => Float64Array): Model =>
  withValues(m, new Map([...params(m)].map(([p, path]) => [p, f(path, Float64Array.from(p.value))])));

describe('parallel', () => {
  it('of one is that one; it commutes, associates, and for LoRA or VeRA is stack', async () => {
    expect(apart(await read(on(parallel(a))), await read(on(a)))).toBeLessThan(1e-12);
    expect(apart(await read(on(parallel(a, b))), await read(on(parallel(b, a))))).toBeLessThan(1e-12);
    expect(apart(await read(on(parallel(a, b, c))), await read(on(parallel(c, a, b))))).toBeLessThan(1e-12);
    const [x, y] = [still(lora({ rank: 2, seed: 1 }), 1), still(vera({ rank: 3, where: ['q', 'down'] }), 2)];
    expect(apart(await read(on(parallel(x, y))), await read(on(stack(x, y))))).toBeLessThan(1e-12);
  });
  it('is not stack for what reads or scales the answer before it', async () => {
    expect(
      apart(await read(on(parallel(still(lora({ rank: 2 }), 1), c))), await read(on(stack(still(lora({ rank: 2 }), 1), c)))),
    ).toBeGreaterThan(1e-4);
  });
  it('merges as it computes, biases included', async () => {
    for (const m of [on(parallel(a, b, c)), on(average([a, c], [0.3, 0.7]))])
      expect(apart(await read(merge(m)), await read(m))).toBeLessThan(1e-12);
    const g = gpt2Network(62);
    const m = parallel(a0(1), a0(2))(g.base);
    expect(apart(await numbersOf(engine, g, merge(m)), await numbersOf(engine, g, m))).toBeLessThan(1e-12);
  });
});
describe('stack', () => {
  it('of one is that one, of none changes nothing, and it associates', async () => {
    expect(await read(on(stack(a)))).toEqual(await read(on(a)));
    expect(on(stack())).toBe(net.base);
    const [x, y, z] = [still(lora({ rank: 2, seed: 1 }), 1), still(ia3(), 2), still(vera({ rank: 3 }), 3)];
    expect(await read(on(stack(stack(x, y), z)))).toEqual(await read(on(stack(x, stack(y, z)))));
    expect(apart(await read(on(stack(x, y))), await read(on(stack(y, x))))).toBeGreaterThan(1e-4);
  });
});
const a0 = (k: number): Transform => moved(ia3({ where: ['o', 'down'] }), k);

describe('average', () => {
  it('of a method with itself is the method; weights 1 and 0 choose; it is linear in the weights', async () => {
    expect(apart(await read(on(average([a, a]))), await read(on(a)))).toBeLessThan(1e-12);
    expect(apart(await read(on(average([a, b], [1, 0]))), await read(on(a)))).toBeLessThan(1e-12);
    expect(apart(await read(on(average([a, b], [0, 1]))), await read(on(b)))).toBeLessThan(1e-12);
  });
  it('of LoRA over equal places is parallel of halves', async () => {
    const half = (seed: number, alpha: number): Transform => moved(lora({ rank: 2, alpha, seed }), seed);
    expect(apart(await read(on(average([half(1, 4), half(2, 4)]))), await read(on(parallel(half(1, 2), half(2, 2)))))).toBeLessThan(1e-12);
  });
});

describe('gate', () => {
  it('shut is the base, bit for bit; open is the method', async () => {
    const at = (b: number): Model =>
      set(on(gate(a)), (path, v) => (/rule\.1$/.test(path) ? v.fill(b) : /rule\.0$/.test(path) ? v.fill(0) : v));
    expect(await read(at(-1e4))).toEqual(await read(net.base));
    expect(apart(await read(at(1e4)), await read(on(a)))).toBeLessThan(1e-12);
  });
});

describe('route', () => {
  /** GPT-2 whose norms write 1 into the first feature, so that a router can decide the same for every token. */
  const g = gpt2Network(64);
  const base = mapTensors(g.base, (t, path) =>
    /norm[12]\.(weight|bias)$/.test(path)
      ? leaf(
          Array.from({ length: 8 }, (_, k) => (k === 0 ? (path.endsWith('bias') ? 1 : 0) : 1)),
          t.shape,
        )
      : t,
  );
  const look = (m: Model) => numbersOf(engine, g, m);
  const [x, y] = [moved(lora({ rank: 2 }), 1), moved(ia3({ where: ['q', 'v'] }), 2)];
  it('certain of one method is that method; undecided it is average', async () => {
    const towards = (n: number | null): Model =>
      set(route([x, y])(base), (path, v) => (/rule\.0$/.test(path) ? v.map((_, k) => (n !== null && k === n * 8 ? 1e4 : 0)) : v));
    for (const [n, one] of [x, y].entries()) expect(apart(await look(towards(n)), await look(one(base)))).toBeLessThan(1e-12);
    expect(apart(await look(towards(null)), await look(average([x, y])(base)))).toBeLessThan(1e-12);
  });
});

describe('fuse', () => {
  it('of one method, or of one several times, is that method; with keys of 0 it is average; W_v = I changes nothing', async () => {
    for (const value of [true, false])
      for (const all of [[a], [a, a, a]]) expect(apart(await read(on(fuse(all, { value }))), await read(on(a)))).toBeLessThan(1e-12);
    const blind = set(on(fuse([a, b])), (path, v) => (/rule\.2$/.test(path) ? v.fill(0) : v));
    expect(apart(await read(blind), await read(on(average([a, b]))))).toBeLessThan(1e-12);
    expect(apart(await read(on(fuse([a, b]))), await read(on(fuse([a, b], { value: false }))))).toBeLessThan(1e-12);
    expect(apart(await read(on(fuse([a, b]))), await read(on(fuse([b, a]))))).toBeLessThan(1e-12);
  });
  it('is the attention of its equation', async () => {
    const path = 'trunk.blocks.0.attn.q';
    const at = lora({ rank: 2, where: path });
    const model = perturb(on(fuse([at, at])), 5);
    const x = random(3, [1, 2, 8]);
    const got = await engine.read(layerAt(model, 'linear', path)(x, context(2)));
    const p = await own(engine, model, path);
    const X = rowsOf(await engine.read(x), 8);
    const us = [0, 1].map((k) => {
      const [A, B] = [p[`sideBySide.members.${k}.A`]!, p[`sideBySide.members.${k}.B`]!];
      return scaled(affine(affine(X, A), B), () => 4); // α/r = 8/2
    });
    const [wq, bias, wk, wv] = [0, 1, 2, 3].map((k) => p[`sideBySide.rule.${k}`]!) as unknown as readonly [Matrix, Matrix, Matrix, Matrix];
    const query = affine(X, wq, bias[0]);
    const mean = X.map((_, t) => {
      const alpha = softmax(us.map((u) => affine([u[t]!], wk)[0]!.reduce((n, k, i) => n + k * query[t]![i]!, 0)));
      return us[0]![t]!.map((_, i) => us.reduce((n, u, k) => n + alpha[k]! * u[t]![i]!, 0));
    });
    const expected = plus(affine(X, p.weight!), affine(mean, wv)).flat();
    expect(apart(got, Float64Array.from(expected))).toBeLessThan(1e-12);
  });
});

describe('mask', () => {
  it('full is the method, empty is the base; two halves in parallel are the whole', async () => {
    expect(apart(await read(on(mask(a, 1))), await read(on(a)))).toBeLessThan(1e-12);
    expect(await read(on(mask(a, 0)))).toEqual(await read(net.base));
    const even = ({ answers: [d] }: { answers: Shape }, rest: number): Float32Array =>
      Float32Array.from({ length: d! }, (_, k) => +(k % 2 === rest));
    const half = (rest: number): Transform => mask(a, (at) => even(at, rest));
    expect(apart(await read(on(parallel(half(0), half(1)))), await read(on(a)))).toBeLessThan(1e-12);
    expect(apart(await read(merge(on(half(0)))), await read(on(half(0))))).toBeLessThan(1e-12);
  });
  it('on weights it is over entries: full tuning of a tenth of them, and it merges', async () => {
    const sparse = moved(mask(attentionOnly({ where: ['q.weight', 'o.weight'] }), 0.1, 3), 4)(net.base);
    const merged = await realize(merge(sparse), engine);
    const [now, then] = [merged, net.base].map((m) => new Map([...tensors(m)].map(({ path, tensor }) => [path, tensor])));
    for (const [path, t] of then!) {
      const [was, is] = [await engine.read(t), await engine.read(now!.get(path)!)];
      const changed = is.filter((v, k) => Math.abs(v - was[k]!) > 1e-12).length;
      expect(changed, path).toBe(/\.(q|o)\.weight$/.test(path) ? Math.round(0.1 * was.length) : 0);
    }
  });
});

describe('split', () => {
  it('at 0 is the last method, past the end the first; a member twice is that member; spans of spans are spans', async () => {
    expect(await read(on(split([a, b], [0])))).toEqual(await read(on(b)));
    expect(await read(on(split([a, b], [1000])))).toEqual(await read(on(a)));
    expect(apart(await read(on(split([a, a], [1]))), await read(on(a)))).toBeLessThan(1e-12);
    expect(await read(on(split([a, split([b, a], [2])], [1])))).toEqual(await read(on(split([a, b, a], [1, 1]))));
  });
  it('gives each token of a place the answer of its own method', async () => {
    const path = 'trunk.blocks.0.attn.q';
    const x = random(3, [2, 3, 8]);
    const rows = async (t: Transform): Promise<number[][]> => rowsOf(await engine.read(layerAt(on(t), 'linear', path)(x, context(3))), 8);
    const [mine, first, second] = [await rows(split([a, b], [1])), await rows(a), await rows(b)];
    expect(mine).toEqual(mine.map((_, k) => (k % 3 === 0 ? first : second)[k]));
  });
});

describe('every law of a method holds for', () => {
  for (const l of combined.filter((l) => QUICK.has(l.name)))
    it(l.name, async () => {
      const made = await caseOf(l, net, 63, engine);
      for (const law of laws) await law.check(made);
    });
});

describe('what cannot stand side by side is refused', () => {
  it('places inside each other, controllers, kinds without x, and weights that do not sum to 1', () => {
    expect(() => on(parallel(lora({ rank: 2 }), houlsby({ bottleneck: 2 })))).toThrow(
      /attn\.[qv] is inside trunk\.blocks\.0\.attn.*stack them instead/,
    );
    expect(() => on(parallel(adalora({ rank: 2, targetRank: 1 })))).toThrow(/adalora decides between steps/);
    expect(() => on(parallel(stack(lora({ rank: 2 }), lora({ rank: 2 }))))).toThrow(/attaches twice around/);
    expect(() => gate(bitfit())(gpt2Network(1).base)).toThrow(/is a weight, which reads no vectors/);
    expect(() => average([a, b], [0.5, 0.6])).toThrow(/sum to 1/);
    expect(() => parallel()).toThrow(/got none/);
    expect(() => split([a, b], [1, 2])).toThrow(/2 methods need 1 whole lengths/);
    expect(() => split([a, b], [1.5])).toThrow(/got 1.5/);
    expect(() => split([bitfit(), bitfit()], [1])(gpt2Network(1).base)).toThrow(/reads no vectors/);
    expect(() => mask(a, 1.5)).toThrow(/share of 1.5/);
    expect(() => on(mask(a, () => Float32Array.of(1, 0)))).toThrow(
      /trunk\.blocks\.0\.attn\.q needs a 0 or 1 for each of its 8 features, got 2 numbers/,
    );
    expect(() => on(mask(a, ({ answers }) => new Float32Array(answers[0]!).fill(2)))).toThrow(/some of them neither/);
  });
});
