// Side networks, and the programs that make models out of models (IPA, HyperTuning, MerA): by hand, special laws, refusals.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import { leaf, paramOf, stateOf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { realize, withValues } from '../../nn/freeze.ts';
import { generate } from '../../nn/generate.ts';
import { type Field, type Layer, type Model, ofKind } from '../../nn/layer.ts';
import { nextToken } from '../../nn/losses.ts';
import { layers, tensors, trainable } from '../../nn/tree.ts';
import { hyperTuned } from '../../peft/additive/hyperTuned.ts';
import { hyperTuning } from '../../peft/additive/hyperTuning.ts';
import { ipa } from '../../peft/additive/ipa.ts';
import { mera } from '../../peft/additive/mera.ts';
import { unitActivations } from '../../peft/additive/meraUnits.ts';
import { pfeiffer } from '../../peft/additive/pfeiffer.ts';
import { resTuning } from '../../peft/additive/resTuning.ts';
import { sideTuning } from '../../peft/additive/sideTuning.ts';
import { assignment } from '../../peft/assignment.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { backwardPaths, gradients } from '../laws/graph.ts';
import { bertNetwork, gpt2Network, llamaNetwork, type Network, perturb, run } from '../laws/models.ts';
import { affine, apart, each, flat, layerAt, type Matrix, own, plus, random, relu, rowsOf, scaled, sigmoid, trained } from './naive.ts';

const engine = float64();
const D = 8;
const T = 4;
const x = random(5, [1, T, D]);
const ctx = context(T, { causal: true });
const read = async (t: Tensor, feed = {}): Promise<number[][]> => rowsOf(await engine.read(t, feed), t.shape.at(-1)!);
const tensorOf = (m: Matrix): Tensor => leaf(Float64Array.from(flat(m)), [1, m.length, m[0]!.length]);
type Own = Record<string, number[][]>;
const bottleneck = (m: Matrix, p: Own, k = ''): number[][] =>
  affine(each(affine(m, p[`down${k}`]!, p[`downBias${k}`]!.flat()), relu), p[`up${k}`]!, p[`upBias${k}`]!.flat());
const close = (a: Matrix, b: Matrix): void => expect(apart(flat(a), flat(b))).toBeLessThan(1e-9);
const block = (m: Model, k: number): Layer<'block'> => layerAt(m, 'block', `trunk.blocks.${k}`);
/** The states between the blocks: what enters the first, and what each answers. */
const states = (m: Model, h: Tensor): Tensor[] => {
  const first = block(m, 0)(h, ctx);
  return [h, first, block(m, 1)(first, ctx)];
};

/** Many recipes in one run. */
const readAll = async (all: readonly Tensor[], feed = {}): Promise<number[][]> => {
  const plan = await engine.compile(engine.store(), { outputs: Object.fromEntries(all.map((t, k) => [`o${k}`, t])) });
  const out = await plan.run(feed);
  return all.map((_, k) => Array.from(out[`o${k}`]!));
};
const largest = (v: readonly number[]): number => Math.max(...v.map(Math.abs));

describe('side networks', () => {
  it('sideTuning blends the base with its side network, through which alone it learns', async () => {
    const net = llamaNetwork(9);
    const model = perturb(sideTuning({ reduction: 2, blocks: 2 })(net.base), 1);
    const withAlpha = async (v: number): Promise<number[][]> => {
      const alpha = [...trainable(model)].find(([, path]) => path.endsWith('.alpha'))![0];
      return read(layerAt(withValues(model, new Map([[alpha, Float64Array.of(v)]])), 'trunk', 'trunk')(x, ctx));
    };
    const base = await read(layerAt(net.base, 'trunk', 'trunk')(x, ctx));
    close(await withAlpha(40), base);
    const side = await withAlpha(-60);
    close(
      await withAlpha(0.7),
      plus(
        scaled(base, () => sigmoid(0.7)),
        scaled(side, () => 1 - sigmoid(0.7)),
      ),
    );
    const paths = backwardPaths(gradients(run(net, model).loss, model));
    expect(paths.filter((p) => /trunk\.blocks\.\d/.test(p))).toEqual([]);
    expect(() => sideTuning({ reduction: 3 })(net.base)).toThrow(/sideTuning: at trunk a reduction of 3/);
  });

  it('resTuning answers with its bypass, and backward never enters the blocks', async () => {
    const net = gpt2Network(9);
    const model = perturb(resTuning({ bottleneck: 3, activation: 'relu' })(net.base), 1);
    const p = await own(engine, model, 'trunk.resTuning');
    const into = x.add(layerAt(net.base, 'embedding', 'trunk.positions')(ctx.positions, ctx));
    const h = await Promise.all(states(net.base, into).map((t) => read(t)));
    const tuned = (m: Matrix, k: number): Matrix => plus(m, bottleneck(m, p, `.${k}`));
    const first = plus(tuned(h[1]!, 0), tuned(h[0]!, 1));
    const second = plus(tuned(h[2]!, 2), tuned(first, 3));
    close(await read(layerAt(model, 'trunk', 'trunk')(x, ctx)), await read(layerAt(net.base, 'norm', 'trunk.norm')(tensorOf(second), ctx)));
    const paths = backwardPaths(gradients(run(net, model).loss, model));
    expect(paths.filter((q) => /\.(attn|mlp)/.test(q))).toEqual([]);
    const zero = resTuning({ bottleneck: 3, zeroLast: true })(net.base);
    expect(
      [...tensors(zero)].filter(({ path, tensor }) => /\.up\.[23]$/.test(path) && paramOf(tensor)!.value.every((v) => v === 0)),
    ).toHaveLength(2);
  });
});

describe('ipa', () => {
  it('adds the logits of a small model to those of a frozen one, and generates by their sum', async () => {
    const [large, small] = [gpt2Network(10).base, perturb(lora({ rank: 2 })(llamaNetwork(11).base), 1)];
    const model = ipa(large, small, { alpha: 2 });
    const text = [1, 5, 2];
    const made = await generate(model, text, { engine, tokens: 2, temperature: 0 });
    for (const token of made) {
      const logits = async (m: Model): Promise<number[]> =>
        (await read(m({ ids: leaf(text, [1, text.length]) }, context(text.length)))).at(-1)!;
      const [a, b] = [await logits(large), await logits(small)];
      const both = a.map((v, i) => v + 2 * b[i]!);
      expect(token).toBe(both.indexOf(Math.max(...both)));
      text.push(token);
    }
    expect([...trainable(model).values()].every((path) => path.startsWith('policy.'))).toBe(true);
    const batch = { ids: leaf(text.slice(0, 3), [1, 3]), targets: leaf(text.slice(1, 4), [1, 3]) };
    const paths = backwardPaths(gradients(nextToken(model, batch, context(3)), model));
    expect(paths.length).toBeGreaterThan(0);
    expect(paths.filter((path) => path.startsWith('trunk') || path.startsWith('head'))).toEqual([]);
    expect(() => ipa(large, small, { alpha: Number.NaN })).toThrow(/alpha/);
  });
});

describe('hyperTuning', () => {
  it('writes LoRA from examples: at first what LoRA starts with, then another for other examples, trained through the reader', async () => {
    const net = gpt2Network(12);
    const downstream = lora({ rank: 2, alpha: 3 })(net.base);
    for (const reader of [gpt2Network(13), bertNetwork(13)]) {
      const hyper = perturb(lora({ rank: 1, where: 'v' })(reader.base), 2);
      const tuner = hyperTuning(hyper, downstream, 4, rng(1));
      const examples = { ids: leaf([1, 2, 3, 4, 5, 6], [2, 3]), keyMask: leaf([1, 1, 1, 1, 1, 0], [2, 3]) };
      const output = async (m: Model): Promise<number[][]> => read(run(net, m).output);
      close(await output(hyperTuned(tuner, downstream, examples)), await output(downstream));
      if (reader.name === 'bert') continue;
      const moved = perturb<Field>(tuner, 3) as typeof tuner;
      const model = hyperTuned(moved, downstream, examples);
      expect(trained(model)).toBe(0);
      const a = await output(await realize(model, engine));
      close(a, await output(model));
      expect(apart(flat(a), flat(await output(hyperTuned(moved, downstream, { ids: leaf([9, 8, 7], [1, 3]) }))))).toBeGreaterThan(1e-6);
      const own = [...trainable(moved)];
      const grads = await readAll(
        grad(
          run(net, model).loss,
          own.map(([q]) => stateOf(q)),
        ),
      );
      for (const [k, [, path]] of own.entries()) expect(largest(grads[k]!), path).toBeGreaterThan(0);
    }
    expect(() => hyperTuning(net.base, net.base, 4, rng(1))).toThrow(/nothing is trained/);
    expect(() => hyperTuned(hyperTuning(net.base, downstream, 4, rng(1)), lora({ rank: 1 })(net.base), { ids: leaf([1], [1, 1]) })).toThrow(
      /writes no/,
    );
  });
});

describe('mera', () => {
  /** The same adapters with their units in another order. */
  const shuffled = (model: Model, order: readonly number[]): Model => {
    const values = new Map(
      [...trainable(model)].flatMap(([p, path]) => {
        const name = path.split('.').at(-1)!;
        const cols = p.shape.at(-1)!;
        const m = name === 'downBias' ? [...p.value].map((v) => [v]) : rowsOf(p.value, cols);
        if (name === 'down' || name === 'downBias') return [[p, Float64Array.from(order.flatMap((j) => m[j]!))] as const];
        return name === 'up' ? [[p, Float64Array.from(m.flatMap((row) => order.map((j) => row[j]!)))] as const] : [];
      }),
    );
    return withValues(model, values);
  };
  const output = async (net: Network, m: Model): Promise<number[][]> => read(run(net, m).output);

  it('finds units that are only in another order, by weights and by what they compute: the merged adapter is the adapter', async () => {
    const net = bertNetwork(14);
    const model = perturb(pfeiffer({ bottleneck: 4 })(net.base), 1);
    const all = [model, shuffled(model, [2, 0, 3, 1]), shuffled(model, [3, 2, 1, 0])];
    const expected = await output(net, model);
    close(await output(net, mera(all)), expected);
    const units = await Promise.all(all.map((m) => unitActivations(m, net.batch, context(5), engine)));
    expect([...units[0]!.values()][0]!.map((u) => u.length)).toEqual([8, 8, 8, 8]); // real tokens
    close(await output(net, mera(all, units)), expected);
    expect([...layers(mera(all))].some(({ layer: l }) => ofKind(l, l.kind).attached?.method === 'pfeiffer')).toBe(true);
    expect(() => mera([net.base])).toThrow(/no bottleneck/);
    expect(() => mera([model, pfeiffer({ bottleneck: 3 })(net.base)])).toThrow(/differ at/);
  });

  it('assigns at the least cost', () => {
    const orders = (n: number): number[][] =>
      n === 0 ? [[]] : orders(n - 1).flatMap((o) => Array.from({ length: n }, (_, i) => [...o.slice(0, i), n - 1, ...o.slice(i)]));
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5 }), fc.nat(1e6), (n, seed) => {
        const cost = rowsOf(rng(seed).uniform(n * n), n);
        const of = (o: readonly number[]): number => o.reduce((s, c, r) => s + cost[r]![c]!, 0);
        const found = assignment(cost);
        expect([...found].sort()).toEqual([...Array(n).keys()]);
        expect(of(found)).toBeCloseTo(Math.min(...orders(n).map(of)), 9);
      }),
    );
  });
});
