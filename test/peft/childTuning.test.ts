// Child-Tuning: gradients masked at random and made up for in the mean (F), or reaching a fixed share chosen by the task (D).
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { paramOf } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import type { Model } from '../../nn/layer.ts';
import { tensors } from '../../nn/tree.ts';
import { sgd } from '../../optim/sgd.ts';
import { trainer } from '../../optim/trainer.ts';
import { finish, merge } from '../../peft/merge.ts';
import { childTuning } from '../../peft/selective/childTuning.ts';
import { childTuningD } from '../../peft/selective/childTuningD.ts';
import { frozen } from '../optim/tiny.ts';
import { best, differing, gradientsAt, lossOf, texts, trainedOn, weightsOf } from './masks.ts';
import { layerAt, random } from './naive.ts';

const engine = float64();
const base = frozen();
const Q = 'trunk.blocks.0.attn.q.weight';
const paths = [Q, 'trunk.blocks.1.mlp.down.weight', 'trunk.blocks.1.norm1.bias'];

describe('childTuning (F)', () => {
  it('moves a fresh random share at each step, 1/p as far, and all of it in the mean: E[g M/p] = g', async () => {
    const [keep, steps] = [0.4, 60];
    const G = random(1, [8, 8]); // the gradient, at every step
    const g = Array.from(await engine.read(G));
    const model = childTuning({ keep, where: Q })(base);
    await using t = await trainer<Model, Record<string, never>>(model, {
      engine,
      loss: (m) => layerAt(m, 'weight', Q)(context(1)).mul(G).sum(),
      optimizer: sgd({ lr: 1 }),
    });
    const now = async (): Promise<number[]> => {
      const { tensor } = [...tensors(await t.model())].find(({ path }) => path === `${Q}.childTuning.delta`)!;
      return Array.from(paramOf(tensor)!.value);
    };
    let [before, moves] = [await now(), 0];
    const masks = new Set<string>();
    for (let k = 0; k < steps; k++) {
      await t.step({});
      const after = await now();
      const kept = after.map((v, j) => {
        const share = (before[j]! - v) / g[j]!; // 0, or 1/p
        expect(Math.min(Math.abs(share), Math.abs(share - 1 / keep))).toBeLessThan(1e-5);
        return share > 1 ? 1 : 0;
      });
      masks.add(kept.join(''));
      moves += kept.reduce<number>((a, b) => a + b, 0);
      before = after;
    }
    expect(masks.size).toBe(steps);
    const n = steps * 64;
    expect(Math.abs(moves / n - keep)).toBeLessThan(4 * Math.sqrt((keep * (1 - keep)) / n)); // four standard errors
  });
  it('in the end has moved everything', async () => {
    const model = childTuning({ keep: 0.4, where: paths })(base);
    const moved = differing(await weightsOf(engine, base), await weightsOf(engine, merge(await trainedOn(engine, model, 12))));
    expect([...moved.values()].reduce((n, p) => n + p.length, 0)).toBeGreaterThan(0.95 * (64 + 256 + 8)); // 0.6¹² = 0.002 stay
  });
  it('refuses shares outside (0, 1]', () => {
    for (const keep of [0, 1.5]) expect(() => childTuning({ keep, where: Q })(base)).toThrow(/childTuning: keep/);
  });
});

describe('childTuningD', () => {
  const batches = texts([1, 2]);
  const ready = () => childTuningD({ keep: 0.3, where: paths }).prepare(base, { engine, batches, loss: lossOf });
  const k = Math.floor(0.3 * (64 + 256 + 8));
  it('moves the entries with the largest squared clipped gradients, and no others, under Adam with weight decay', async () => {
    const each = await Promise.all(batches.map((b) => gradientsAt(engine, base, paths, (m) => lossOf(m, b))));
    const scores = paths.map((_, l) =>
      each[0]![l]!.map((_, j) =>
        each.reduce((s, g) => {
          const clip = Math.min(1, 1 / (Math.hypot(...g[l]!) + 1e-6));
          return s + (clip * g[l]![j]!) ** 2;
        }, 0),
      ),
    );
    const model = (await ready())(base);
    const moved = differing(await weightsOf(engine, base), await weightsOf(engine, merge(await trainedOn(engine, model, 4))));
    expect([...moved].flatMap(([path, at]) => at.map((j) => `${paths.indexOf(path)} ${j}`)).sort()).toEqual(best(scores, k));
  });
  it('does not need its mask any more when finished', async () => {
    const done = finish((await ready())(base));
    expect([...tensors(done)].filter(({ path }) => path.endsWith('.mask'))).toEqual([]);
    expect(childTuningD.method.count([{ shape: [8, 8] }] as never, childTuningD.method.defaults)).toEqual({ train: 64, stored: 64 });
  });
});
