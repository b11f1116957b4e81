// SHiRA: as many entries as LoRA has numbers, where its masks put them, and nothing else that moves.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { merge } from '../../peft/merge.ts';
import { shira } from '../../peft/selective/shira.ts';
import { perturb } from '../laws/models.ts';
import { frozen } from '../optim/tiny.ts';
import { best, differing, gradientsAt, lossOf, placesOf, texts, trainedOn, weightsOf } from './masks.ts';
import { llama3B } from './structured.ts';

const engine = float64();
const base = frozen();
const paths = ['trunk.blocks.0.attn.q.weight', 'trunk.blocks.1.mlp.down.weight']; // [8, 8], [8, 32]
const K = [2 * 16, 2 * 40]; // r(in + out) for r = 2
const batches = texts([1, 2]);
const attached = async (options: Parameters<typeof shira>[0]) =>
  (await shira({ rank: 2, where: paths, ...options }).prepare(base, { engine, batches, loss: lossOf }))(base);

describe('shira', () => {
  it('takes the largest |W|, |∂L/∂W| or |W ⊙ ∂L/∂W| of each weight', async () => {
    const w = await weightsOf(engine, base);
    const g = await Promise.all(batches.map((b) => gradientsAt(engine, base, paths, (m) => lossOf(m, b))));
    for (const [l, path] of paths.entries()) {
      const slope = g[0]![l]!.map((v, j) => v + g[1]![l]![j]!);
      const scores = { weight: w.get(path)!, gradient: slope, snip: slope.map((v, j) => v * w.get(path)![j]!) };
      for (const [mask, s] of Object.entries(scores))
        expect(await placesOf(engine, await attached({ mask: mask as 'weight' }), 'shira', [path]), mask).toEqual(
          best([s.map(Math.abs)], K[l]!),
        );
    }
  });
  it('struct holds the diagonal, whole rows and columns in turn, and the last in part', async () => {
    const places = (await placesOf(engine, await attached({ mask: 'struct' }), 'shira', [paths[1]!])).map((p) => Number(p.split(' ')[1]));
    expect(places.length).toBe(K[1]);
    const held = new Set(places);
    for (let d = 0; d < 8; d++) expect(held.has(d * 32 + d)).toBe(true);
    const rows = [...Array(8).keys()].filter((i) => [...Array(32).keys()].every((j) => held.has(i * 32 + j)));
    const cols = [...Array(32).keys()].filter((j) => [...Array(8).keys()].every((i) => held.has(i * 32 + j)));
    expect([rows.length, cols.length]).toEqual([2, 1]); // the diagonal, a row, a column, a row: 74 to 77 of 80
    const left = places.filter((p) => !rows.includes(Math.floor(p / 32)) && !cols.includes(p % 32) && Math.floor(p / 32) !== p % 32);
    expect(left.length).toBeGreaterThan(0);
    expect(new Set(left.map((p) => p % 32)).size).toBe(1); // the column that was cut short
  });
  it('random places follow the seed', async () => {
    const at = async (seed: number) => placesOf(engine, shira({ rank: 2, where: paths, seed })(base), 'shira', paths);
    expect(await at(1)).toEqual(await at(1));
    expect(await at(1)).not.toEqual(await at(2));
    expect((await at(1)).length).toBe(K[0]! + K[1]!);
  });
  it('adds s times its values there', async () => {
    const model = perturb(shira({ rank: 2, scale: 3, where: paths })(base), 4);
    const [before, after, own] = [await weightsOf(engine, base), await weightsOf(engine, merge(model)), await weightsOf(engine, model)];
    for (const path of paths) {
      const w = before.get(path)!.slice();
      for (const [k, p] of (await placesOf(engine, model, 'shira', [path]))
        .map((q) => Number(q.split(' ')[1]))
        .sort((a, b) => a - b)
        .entries())
        w[p]! += 3 * own.get(`${path}.shira.values`)![k]!;
      expect(Math.max(...w.map((v, j) => Math.abs(v - after.get(path)![j]!)))).toBeLessThan(1e-15);
    }
  });
  it('trained, exactly its entries differ from the base', async () => {
    const model = shira({ rank: 1, where: paths })(base);
    const moved = differing(await weightsOf(engine, base), await weightsOf(engine, merge(await trainedOn(engine, model, 4))));
    expect([...moved].flatMap(([path, at]) => at.map((j) => `${paths.indexOf(path)} ${j}`)).sort()).toEqual(
      await placesOf(engine, model, 'shira', paths),
    );
  });
  it('counts as LoRA does', () => {
    const sites = llama3B('weight');
    expect(shira.method.count(sites, shira.method.defaults)).toEqual({ train: 9_175_040, stored: 2 * 9_175_040 + 28 * (3073 + 1025) });
  });
  it('refuses what no matrix can hold, and names what it needs', () => {
    expect(() => shira({ rank: 5, where: paths[0]! })(base)).toThrow(
      /shira: rank 5 at trunk\.blocks\.0\.attn\.q\.weight asks for 80 entries of 64; the rank must be at most 4/,
    );
    expect(() => shira({ rank: 1, where: 'q.bias' })(base)).toThrow(/is a vector/);
    expect(() => shira({ rank: 1, mask: 'snip', where: paths })(base)).toThrow(/shira: needs numbers from the model/);
  });
});
