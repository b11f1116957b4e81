// Methods that train parts of a network as they are, or what a budget buys: last layers, attention, head, FAR, SPT.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { leaf } from '../../core/tensor.ts';
import type { Model } from '../../nn/layer.ts';
import { mapTensors, tensors, trainable } from '../../nn/tree.ts';
import { merge } from '../../peft/merge.ts';
import { attentionOnly } from '../../peft/selective/attentionOnly.ts';
import { far } from '../../peft/selective/far.ts';
import { headOnly } from '../../peft/selective/headOnly.ts';
import { lastLayers } from '../../peft/selective/lastLayers.ts';
import { spt } from '../../peft/selective/spt.ts';
import { bertNetwork, llamaNetwork, numbersOf, perturb } from '../laws/models.ts';
import { frozen } from '../optim/tiny.ts';
import { differing, lossOf, texts, trainedOn, weightsOf } from './masks.ts';
import { apart, rowsOf, trained } from './naive.ts';

const engine = float64();
const base = frozen(); // GPT-2: width 8, inner 32, two blocks
const changedBy = async (model: Model, from: Model = base): Promise<string[]> => [
  ...differing(await weightsOf(engine, from), await weightsOf(engine, merge(model))).keys(),
];

describe('parts', () => {
  it('lastLayers trains every tensor of the last k blocks, and none before', async () => {
    const inBlock = (b: number): string[] => [...tensors(base)].map(({ path }) => path).filter((p) => p.includes(`blocks.${b}.`));
    expect(await changedBy(perturb(lastLayers({ layers: 1 })(base), 1))).toEqual(inBlock(1));
    expect(await changedBy(perturb(lastLayers({ layers: 2 })(base), 1))).toEqual([...inBlock(0), ...inBlock(1)]);
    expect(trained(lastLayers({ layers: 1 })(base))).toBe(4 * 64 + 4 * 8 + 2 * 256 + 32 + 8 + 4 * 8);
    for (const layers of [0, 3, 1.5])
      expect(() => lastLayers({ layers })(base)).toThrow(/lastLayers: layers .* from 1 to 2, the blocks this model has/);
  });
  it('attentionOnly trains 4d² + 4d numbers of each block', async () => {
    const model = attentionOnly()(base);
    expect(trained(model)).toBe(2 * (4 * 64 + 4 * 8));
    expect((await changedBy(perturb(model, 1))).every((p) => p.includes('.attn.'))).toBe(true);
  });
  it('headOnly trains the head, and refuses one that is tied to the embedding', async () => {
    const bert = bertNetwork(1).base;
    expect(await changedBy(perturb(headOnly()(bert), 1), bert)).toEqual(['head.weight', 'head.bias']);
    expect(() => headOnly()(base)).toThrow(/headOnly: .*tied/);
  });
});

describe('far', () => {
  const ready = (m: Model, train: (x: Model) => Promise<Model>, share = 0.2) => far({ share }).prepare(m, { engine, train });
  it('trains the units whose weights a short training moves most, and their numbers alone', async () => {
    const seen: { units: Map<number, number[]> } = { units: new Map() };
    const method = await ready(base, async (x) => {
      const after = await trainedOn(engine, x, 3, 5, 0);
      const now = await weightsOf(engine, after);
      for (const b of [0, 1]) {
        const at = (n: string): number[] => now.get(`trunk.blocks.${b}.mlp.${n}.shift`)!.map(Math.abs);
        const [up, bias, down] = [rowsOf(at('up.weight'), 8), at('up.bias'), rowsOf(at('down.weight'), 32)];
        const score = bias.map((v, u) => v + up[u]!.reduce((s, w) => s + w, 0) + down.reduce((s, row) => s + row[u]!, 0));
        seen.units.set(
          b,
          [...score.keys()]
            .sort((p, q) => score[q]! - score[p]!)
            .slice(0, 6)
            .sort((p, q) => p - q),
        ); // round(0.2 · 32)
      }
      return after;
    });
    const model = method(base);
    expect(trained(model)).toBe(2 * 6 * (8 + 1 + 8));
    const moved = differing(await weightsOf(engine, base), await weightsOf(engine, merge(await trainedOn(engine, model, 4))));
    expect([...moved.keys()].sort()).toEqual(
      [0, 1].flatMap((b) => ['down.weight', 'up.bias', 'up.weight'].map((n) => `trunk.blocks.${b}.mlp.${n}`)),
    );
    for (const [path, places] of moved) {
      const units = seen.units.get(Number(/blocks\.(\d)/.exec(path)![1]))!;
      const of = path.endsWith('down.weight')
        ? (j: number) => j % 32
        : path.endsWith('bias')
          ? (j: number) => j
          : (j: number) => Math.floor(j / 8);
      expect([...new Set(places.map(of))].sort((p, q) => p - q)).toEqual(units);
    }
  });
  it('may as well move its units to the front: the order of units changes nothing', async () => {
    const net = llamaNetwork(2);
    const order = rng(1).permutation(12);
    const reordered = mapTensors(net.base, (t, path) => {
      if (!/blocks\.0\.mlp/.test(path) || t.source.kind !== 'leaf') return t;
      const { data } = t.source;
      const cols = t.shape[1]!;
      return leaf(
        Float64Array.from(data, (_, k) =>
          path.includes('down')
            ? data[Math.floor(k / cols) * cols + order[k % cols]!]!
            : data[order[Math.floor(k / cols)]! * cols + (k % cols)]!,
        ),
        t.shape,
      );
    });
    expect(apart(await numbersOf(engine, net, reordered), await numbersOf(engine, net, net.base))).toBeLessThan(1e-13);
  });
  it('refuses weights of no unit', () =>
    expect(() => far({ where: 'q.weight' })(base)).toThrow(/far: trunk\.blocks\.0\.attn\.q\.weight does not belong to a hidden unit/));
});

describe('spt', () => {
  const env = { engine, batches: texts([1, 2, 3]), loss: lossOf };
  for (const density of [0.05, 0.15, 0.4])
    it(`spends at most ${density} of all numbers, each weight in one way, and nearly all of it`, async () => {
      const model = (await spt({ density, rank: 1 }).prepare(base, env))(base);
      const all = [...tensors(base)]
        .filter(({ path }) => path.includes('blocks.'))
        .reduce((n, { tensor }) => n + tensor.shape.reduce((a, b) => a * b), 0);
      const spent = trained(model);
      expect(spent).toBeLessThanOrEqual(Math.floor(density * all));
      if (density < 0.3) expect(spent).toBeGreaterThan(0.75 * density * all);
      const ways = new Map<string, Set<string>>();
      for (const path of trainable(model).values()) {
        const [, site, name] = /^(.*)\.spt\.(\w+)$/.exec(path)!;
        ways.set(site!, (ways.get(site!) ?? new Set()).add(name!));
      }
      for (const w of ways.values()) expect([['A', 'B'], ['values'], ['delta']]).toContainEqual([...w].sort());
      if (density === 0.15)
        expect(new Set([...ways.values()].map((w) => [...w].sort().join()))).toEqual(new Set(['A,B', 'values', 'delta']));
    });
  it('refuses budgets that buy nothing', async () => {
    await expect(spt({ density: 1e-4, rank: 1 }).prepare(base, env)).rejects.toThrow(/spt: a density of 0\.0001 .*raise the density/);
  });
});
