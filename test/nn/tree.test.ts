// The model as a tree: unique paths, sharing under surgery, and freezing there and back.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { leaf, param, paramOf, stateOf, type Tensor } from '../../core/tensor.ts';
import { bert, encoder, roberta } from '../../nn/encoder.ts';
import { freeze, realize, unfreeze, withValues } from '../../nn/freeze.ts';
import { classifier } from '../../nn/heads.ts';
import { type AnyLayer, BASE, isLayer, type Kind, layer, type Model } from '../../nn/layer.ts';
import { linear } from '../../nn/linear.ts';
import { layers, mapTensors, params, rewrite, substitute, tensors, trainable } from '../../nn/tree.ts';
import { DECODERS, lively, randomRows, read, SIZES, tiny } from './models.ts';

const MODELS: Readonly<Record<string, (seed: number) => Model>> = {
  ...Object.fromEntries(Object.keys(DECODERS).map((name) => [name, (seed: number) => tiny(name, seed)])),
  bert: (seed) => lively(encoder(bert(SIZES), rng(seed)), seed),
  roberta: (seed) => lively(encoder(roberta(SIZES), rng(seed)), seed),
  classifier: (seed) => classifier(tiny('llama', seed), { classes: 3 }, rng(seed)),
};
const models = fc
  .tuple(fc.constantFrom(...Object.keys(MODELS)), fc.nat())
  .map(([name, seed]) => ({ name, model: MODELS[name]!(seed), seed }));
const runs = { numRuns: 10 };
const rowsOf = (seed: number): number[][] => randomRows(seed, 1, 4);
const output = async (m: Model, seed: number): Promise<number[]> => (await read(m, rowsOf(seed)))[0]!;

describe('paths', () => {
  test('are unique among layers and among tensors, and none is empty but the root', () =>
    fc.assert(
      fc.property(models, ({ model }) => {
        const all = [...layers(model)].map((l) => l.path);
        expect(new Set(all).size).toBe(all.length);
        expect(all.filter((p) => p === '')).toEqual(['']);
        const leaves = [...tensors(model)].map((t) => t.path);
        expect(new Set(leaves).size).toBe(leaves.length);
      }),
      runs,
    ));
  test('are the scopes in which the layers compute', () => {
    const places = new Set<string>();
    const watched = substitute(tiny('llama', 1), 'linear', (base, path) =>
      layer('linear', { inner: base }, () => (x, ctx) => {
        const y = base(x, ctx);
        if (y.at.path === path) places.add(path);
        return y;
      }),
    );
    return read(watched, [[1, 2]]).then(() =>
      expect([...places].sort()).toEqual(
        [...layers(tiny('llama', 1))]
          .filter((l) => l.layer.kind === 'linear')
          .map((l) => l.path)
          .sort(),
      ),
    );
  });
  test('do not change when a layer is put around another as its BASE', () => {
    const model = tiny('llama', 1);
    const around = substitute(model, 'weight', (base) => layer('weight', { [BASE]: base }, (f) => f[BASE]));
    const paths = (m: Model): string[] => [...tensors(m)].map((t) => t.path);
    expect(paths(around)).toEqual(paths(model));
  });
});

describe('surgery', () => {
  const same = (l: AnyLayer): AnyLayer => l.with(l.fields);
  const kinds = fc.constantFrom<Kind[]>('weight', 'linear', 'norm', 'embedding', 'attend', 'branch', 'block', 'trunk', 'model');
  test('mapTensors with the identity answers the very same object', () =>
    fc.assert(
      fc.property(models, ({ model }) => void expect(mapTensors(model, (t) => t)).toBe(model)),
      runs,
    ));
  test('substitute that answers null everywhere answers the very same object', () =>
    fc.assert(
      fc.property(models, kinds, ({ model }, kind) => void expect(substitute(model, kind, () => null)).toBe(model)),
      runs,
    ));
  test('substitute at one path rebuilds its ancestors only, and leaves the old tree as it was', () =>
    fc.assert(
      fc.asyncProperty(models, kinds, fc.nat(), async ({ model, seed }, kind, n) => {
        const at = [...layers(model)].filter((l) => l.layer.kind === kind);
        const { layer: old } = at[n % at.length]!;
        const { path } = at.find((l) => l.layer === old)!; // a tied table is asked for once, at its first place
        const before = await output(model, seed);
        const now = substitute(model, kind, (l, p) => (p === path ? same(l) : null));
        const after = new Map([...layers(now)].map((l) => [l.path, l.layer]));
        const places = [...layers(model)].filter((l) => l.layer === old).map((l) => l.path); // two, for a tied table
        const above = (p: string): boolean => p === '' || places.some((at) => p === at || at.startsWith(`${p}.`));
        const under = (p: string): boolean => places.some((at) => at === '' || p.startsWith(`${at}.`));
        for (const { path: p, layer: l } of layers(model)) {
          if (above(p)) expect(after.get(p), p).not.toBe(l);
          else if (!under(p)) expect(after.get(p), p).toBe(l);
        }
        expect([...layers(model)].find((l) => l.path === path)!.layer).toBe(old);
        expect(await output(now, seed)).toEqual(before);
        expect(await output(model, seed)).toEqual(before);
      }),
      runs,
    ));
  test('a layer at two places stays one layer', () => {
    const moved = mapTensors(freeze(tiny('gpt2', 1)), (t) => t.mul(2));
    const at = new Map([...layers(moved)].map((l) => [l.path, l.layer]));
    expect(at.get('head.weight')).toBe(at.get('embed.weight'));
  });
  test('a replaced layer is the one that is called', async () => {
    const model = tiny('gpt2', 2);
    const silent = substitute(model, 'branch', () => layer('branch', {}, () => (x) => x.mul(0)));
    const none = rewrite(model, (l) => (l.kind === 'block' ? layer('block', {}, () => (h) => h) : null));
    expect(await output(silent, 2)).toEqual(await output(none, 2));
    expect(await output(silent, 2)).not.toEqual(await output(model, 2));
  });
  test('every layer can be rebuilt from its own fields', () =>
    fc.assert(
      fc.asyncProperty(models, async ({ model, seed }) => {
        const again = (l: AnyLayer): AnyLayer =>
          l.with(Object.fromEntries(Object.entries(l.fields).map(([k, v]) => [k, isLayer(v) ? again(v) : v])));
        expect(await output(again(model) as Model, seed)).toEqual(await output(model, seed));
      }),
      runs,
    ));
});

describe('freezing', () => {
  test('a frozen model has no parameters and the same output; thawed it has as many as before, tied ones still tied', () =>
    fc.assert(
      fc.asyncProperty(models, async ({ model, seed }) => {
        const frozen = freeze(model);
        expect(params(frozen).size).toBe(0);
        expect(await output(frozen, seed)).toEqual(await output(model, seed));
        const thawed = unfreeze(frozen, () => true);
        expect([...params(thawed).values()]).toEqual([...params(model).values()]);
        for (const [p] of params(thawed))
          expect([...params(model).keys()].some((o) => o.value === p.value && `${o.shape}` === `${p.shape}`)).toBe(true);
        expect(await output(thawed, seed)).toEqual(await output(model, seed));
        expect(freeze(frozen)).toBe(frozen);
      }),
      runs,
    ));
  test('two tensors of one parameter become one leaf, and one parameter again', () => {
    const p = paramOf(param([1, 2, 3, 4], [2, 2]))!;
    const both = [linear(stateOf(p)), linear(stateOf(p))];
    const frozen = freeze(both);
    const [a, b] = [...tensors(frozen)].map((t) => t.tensor);
    expect(a).toBe(b);
    expect(params(unfreeze(frozen, () => true)).size).toBe(1);
    expect(params(withValues(both, new Map([[p, Float32Array.of(5, 6, 7, 8)]]))).size).toBe(1);
  });
  test('unfreeze thaws what is asked for and nothing else', () =>
    fc.assert(
      fc.property(models, ({ model }) => {
        const some = unfreeze(freeze(model), (p) => p.startsWith('trunk.blocks.1.mlp.'));
        expect([...trainable(some).values()]).toEqual([...params(model).values()].filter((p) => p.startsWith('trunk.blocks.1.mlp.')));
      }),
      runs,
    ));
  test('withValues puts other numbers in, and the old ones back restores the output', () =>
    fc.assert(
      fc.asyncProperty(models, async ({ model, seed }) => {
        const old = [...params(model).keys()];
        const moved = withValues(model, new Map(old.map((p, k) => [p, rng(seed).split(k).normal(p.value.length, 0.5)])));
        expect([...params(moved).values()]).toEqual([...params(model).values()]);
        expect(await output(moved, seed)).not.toEqual(await output(model, seed));
        const back = withValues(moved, new Map([...params(moved).keys()].map((p, k) => [p, Float32Array.from(old[k]!.value)])));
        expect(await output(back, seed)).toEqual(await output(model, seed));
        expect(withValues(model, new Map())).toBe(model);
      }),
      runs,
    ));
  test('realize computes recipes once and leaves parameters and numbers alone', async () => {
    const model = tiny('gpt2', 3);
    const engine = float64();
    const doubled = mapTensors(freeze(model), (t: Tensor, path) => (path.endsWith('q.weight') ? t.add(t) : t));
    const real = await realize(doubled, engine);
    for (const { path, tensor } of tensors(real)) expect(tensor.source.kind, path).toBe('leaf');
    expect(await output(real, 3)).toEqual(await output(doubled, 3));
    expect(await realize(model, engine)).toBe(model);
    expect(paramOf(leaf([1], [1]))).toBe(null);
  });
});
