// FISH-DIP, which chooses its entries again while it trains, and U-BitFit and S-BitFit, which choose biases after a first training: each choice
// against one made without the code under test.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { leaf, param, paramOf } from '../../core/tensor.ts';
import { realize } from '../../nn/freeze.ts';
import type { Batch, Model } from '../../nn/layer.ts';
import { nextToken } from '../../nn/losses.ts';
import { mapTensors, tensors, trainable } from '../../nn/tree.ts';
import { sgd } from '../../optim/sgd.ts';
import { trainer } from '../../optim/trainer.ts';
import { merge } from '../../peft/merge.ts';
import { fishDip } from '../../peft/selective/fishDip.ts';
import { sBitfit } from '../../peft/selective/sBitfit.ts';
import { uBitfit } from '../../peft/selective/uBitfit.ts';
import { llamaNetwork } from '../laws/models.ts';
import { counting, frozen, type Text } from '../optim/tiny.ts';
import { best, gradientsAt, lossOf, placesOf, texts, weightsOf } from './masks.ts';

const engine = float64();
const base = frozen();
const batches = texts([1, 2, 3]);
const squares = (lists: readonly number[][]): number[][] => lists.map((g) => g.map((v) => v * v));
const sums = (many: readonly number[][][]): number[][] => many.reduce((a, b) => a.map((g, l) => g.map((v, j) => v + b[l]![j]!)));

describe('fishDip', () => {
  const where = ['q.weight', 'down.weight'];
  const paths = [0, 1].flatMap((b) => [`trunk.blocks.${b}.attn.q.weight`, `trunk.blocks.${b}.mlp.down.weight`]);
  const options = { density: 0.1, every: 2, hardest: 0.4, where };
  const rows = batches.flatMap((b) =>
    [0, 1].map((r): Batch & { targets: Batch['ids'] } => ({ ids: b.ids.slice(0, r, r + 1), targets: b.targets.slice(0, r, r + 1) })),
  );
  /** The entries with the largest Fisher information of the three texts with the largest loss. */
  const wanted = async (model: Model): Promise<string[]> => {
    const losses = await Promise.all(rows.map(async (row) => engine.item(lossOf(model, row))));
    const worst = [...rows.keys()].sort((a, b) => losses[b]! - losses[a]!).slice(0, 3);
    const fisher = sums(
      await Promise.all(worst.map(async (k) => squares(await gradientsAt(engine, model, paths, (m) => lossOf(m, rows[k]!))))),
    );
    return best(fisher, Math.floor(0.1 * 2 * (64 + 256)));
  };
  const masked = async (model: Model): Promise<string[]> => {
    const found: string[] = [];
    for (const { path, tensor } of tensors(model)) {
      const l = paths.indexOf(path.replace('.fishDip.mask', ''));
      if (path.endsWith('.fishDip.mask')) for (const [j, v] of (await engine.read(tensor)).entries()) if (v === 1) found.push(`${l} ${j}`);
    }
    return found.sort();
  };
  it('moves the entries it has chosen, and after every so many steps chooses by what does worst then', async () => {
    const model = (await fishDip(options).prepare(base, { engine, batches, loss: lossOf }))(base);
    expect(await masked(model)).toEqual(await wanted(base));
    await using t = await trainer<Model, Text>(model, { engine, loss: nextToken, optimizer: sgd({ lr: 1 }), total: 4 });
    const seen = [await masked(model)];
    const at = [await weightsOf(engine, base)];
    for (let k = 1; k <= 4; k++) {
      await t.step(counting(k));
      const now = await t.model();
      seen.push(await masked(now));
      at.push(await weightsOf(engine, await realize(merge(now), engine)));
    }
    expect(seen[1]).toEqual(seen[0]);
    expect(seen[2]).not.toEqual(seen[0]);
    expect(seen[4]).toEqual(seen[2]); // after the last step there is nothing left to choose for
    for (const [k, mask] of seen.slice(0, 4).entries()) {
      const moved = paths.flatMap((p, l) => at[k]!.get(p)!.flatMap((v, j) => (Object.is(v, at[k + 1]!.get(p)![j]) ? [] : [`${l} ${j}`])));
      expect(moved.every((place) => mask.includes(place))).toBe(true);
      expect(moved.length).toBeGreaterThan(0);
    }
    await using again = await trainer<Model, Text>(model, { engine, loss: nextToken, optimizer: sgd({ lr: 1 }), total: 3 });
    await again.step(counting(1));
    await again.step(counting(2));
    const two = await again.model();
    expect(await masked(two)).toEqual(await wanted(await realize(merge(two), engine)));
  });
  it('says what it needs', async () => {
    await expect(fishDip(options).prepare(base, { engine })).rejects.toThrow('fishDip: it chooses by gradients of a loss on data');
    expect(() => fishDip({ ...options, every: 0 })(base)).toThrow('fishDip: every 0 must be a whole number');
    expect(() => fishDip({ ...options, hardest: 2 })(base)).toThrow('fishDip: hardest 2 must be at least 0 and at most 1');
  });
});

describe('uBitfit and sBitfit', () => {
  const paths = [...tensors(base)].map(({ path }) => path).filter((p) => p.endsWith('.bias'));
  /** A first training that moves every bias by known numbers. */
  const train = async (m: Model): Promise<Model> =>
    mapTensors(m, (t, path) => (path.endsWith('.shift') && paramOf(t) !== null ? param(delta(path), t.shape) : t));
  const delta = (path: string): Float32Array =>
    rng(5)
      .split(path.replace('.shift', ''))
      .normal(sizes.get(path.replace('.shift', ''))!, 0.1);
  const sizes = new Map([...tensors(base)].map(({ path, tensor }) => [path, tensor.shape[0]!]));
  const env = { engine, batches, loss: lossOf, train };
  const scores = async (): Promise<number[][]> => {
    const there = mapTensors(base, (t, path) =>
      paths.includes(path) && t.source.kind === 'leaf'
        ? leaf(
            Float64Array.from(t.source.data, (v, k) => v + delta(path)[k]!),
            t.shape,
          )
        : t,
    );
    const g = sums(await Promise.all(batches.map((b) => gradientsAt(engine, there, paths, (m) => lossOf(m, b)))));
    return g.map((list, l) => list.map((v, j) => -v * delta(paths[l]!)[j]!));
  };
  it('keep the entries, or the whole biases, without which the loss would be highest to first order', async () => {
    const s = await scores();
    const n = paths.reduce((sum, p) => sum + sizes.get(p)!, 0);
    const u = (await uBitfit({ density: 0.2 }).prepare(base, env))(base);
    expect(await placesOf(engine, u, 'uBitfit', paths)).toEqual(best(s, Math.floor(0.2 * n)));
    const whole = s.map((list) => [list.reduce((a, b) => a + b, 0)]);
    const m = (await sBitfit({ density: 0.3 }).prepare(base, env))(base);
    const kept = [...trainable(m).values()].map((p) => `${paths.indexOf(p.replace('.sBitfit.delta', ''))} 0`).sort();
    expect(kept).toEqual(best(whole, Math.round(0.3 * paths.length)));
  });
  it('say what they need, and where there are no biases', async () => {
    await expect(uBitfit().prepare(base, { engine, batches, loss: lossOf })).rejects.toThrow(
      'uBitfit: its first phase is full fine-tuning',
    );
    await expect(sBitfit().prepare(base, { engine, train })).rejects.toThrow('sBitfit: it chooses by gradients of a loss');
    expect(() => sBitfit()(llamaNetwork(1).base)).toThrow(/sBitfit.*there are none here/);
    expect(() => uBitfit({ where: ['q.weight'] })(base)).toThrow('is not a bias, and only those are pruned');
  });
});
