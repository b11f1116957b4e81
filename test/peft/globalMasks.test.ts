// FISH, SAM, SNIP, LT-SFT: which entries are chosen, over all weights together, and that no others ever move.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { leaf } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { realize } from '../../nn/freeze.ts';
import { type Batch, type Layer, layer, type Model } from '../../nn/layer.ts';
import { linear } from '../../nn/linear.ts';
import { classify } from '../../nn/losses.ts';
import { stack } from '../../peft/combinators.ts';
import { merge } from '../../peft/merge.ts';
import { fishMask } from '../../peft/selective/fishMask.ts';
import { ltSft, withDifferences } from '../../peft/selective/ltSft.ts';
import { sam } from '../../peft/selective/sam.ts';
import { snip } from '../../peft/selective/snip.ts';
import { perturb } from '../laws/models.ts';
import { frozen } from '../optim/tiny.ts';
import { best, differing, gradientsAt, lossOf, placesOf, texts, trainedOn, weightsOf } from './masks.ts';
import { random, rowsOf, softmax } from './naive.ts';

const engine = float64();
const base = frozen();
const where = ['q.weight', 'down.weight', 'norm2.bias'];
const paths = [0, 1].flatMap((b) => [`attn.q.weight`, `norm2.bias`, `mlp.down.weight`].map((n) => `trunk.blocks.${b}.${n}`));
const N = 2 * (64 + 8 + 256);
const batches = texts([1, 2, 3]);
const env = { engine, batches, loss: lossOf };
const squares = (lists: readonly number[][]): number[][] => lists.map((g) => g.map((v) => v * v));
const sums = (many: readonly number[][][]): number[][] => many.reduce((a, b) => a.map((g, l) => g.map((v, j) => v + b[l]![j]!)));

describe('fishMask', () => {
  const k = Math.floor(0.1 * N);
  const rows = batches.flatMap((b) =>
    [0, 1].map((r): Batch & { targets: Batch['ids'] } => ({ ids: b.ids.slice(0, r, r + 1), targets: b.targets.slice(0, r, r + 1) })),
  );
  it('takes the largest sums of squared gradients of single examples, where a batch’s gradient squared takes others', async () => {
    const fisher = sums(await Promise.all(rows.map(async (row) => squares(await gradientsAt(engine, base, paths, (m) => lossOf(m, row))))));
    const model = (await fishMask({ density: 0.1, where }).prepare(base, env))(base);
    expect(await placesOf(engine, model, 'fishMask', paths)).toEqual(best(fisher, k));
    const byBatch = sums(await Promise.all(batches.map(async (b) => squares(await gradientsAt(engine, base, paths, (m) => lossOf(m, b))))));
    expect(best(byBatch, k)).not.toEqual(best(fisher, k));
  });
  it('looks at no more examples than it is told', async () => {
    const fisher = sums(
      await Promise.all(rows.slice(0, 3).map(async (row) => squares(await gradientsAt(engine, base, paths, (m) => lossOf(m, row))))),
    );
    const model = (await fishMask({ density: 0.1, samples: 3, where }).prepare(base, env))(base);
    expect(await placesOf(engine, model, 'fishMask', paths)).toEqual(best(fisher, k));
  });

  /** Logistic regression: three classes of four features, which stand in the place of ids. */
  const regression: Model = layer<'model', { head: Layer<'linear'> }>(
    'model',
    { head: linear(random(1, [3, 4]), random(2, [3])) },
    (f) => (b, ctx) => f.head(b.ids, ctx),
  );
  const data = [3, 4].map((s) => ({ ids: random(s, [5, 4]), labels: leaf([0, 2, 1, 1, 0], [5]) }));
  for (const fisher of ['label', 'expectation'] as const)
    it(`is the explicit Fisher information of logistic regression (${fisher})`, async () => {
      const W = rowsOf(await engine.read(random(1, [3, 4])), 4);
      const c = await engine.read(random(2, [3]));
      const [w, b] = [W.map((r) => r.map(() => 0)), [0, 0, 0]];
      for (const batch of data) {
        const X = rowsOf(await engine.read(batch.ids), 4);
        const labels = await engine.read(batch.labels);
        for (const [n, x] of X.entries()) {
          const p = softmax(W.map((r, i) => r.reduce((s, v, j) => s + v * x[j]!, c[i]!)));
          for (const y of fisher === 'label' ? [labels[n]!] : [0, 1, 2])
            for (let i = 0; i < 3; i++) {
              const g = (i === y ? 1 : 0) - p[i]!; // ∂ log p(y|x)/∂ logit i
              const weight = fisher === 'label' ? 1 : p[y]!;
              b[i]! += weight * g * g;
              for (let j = 0; j < 4; j++) w[i]![j]! += weight * (g * x[j]!) ** 2;
            }
        }
      }
      for (const density of [0.2, 0.5, 0.8]) {
        const method = await fishMask({ density, fisher, where: /^head/ }).prepare(regression, {
          engine,
          batches: data,
          loss: (m, batch) => classify(m, batch as (typeof data)[0], context(4)),
        });
        expect(await placesOf(engine, method(regression), 'fishMask', ['head.weight', 'head.bias'])).toEqual(
          best([w.flat(), b], Math.floor(density * 15)),
        );
      }
    });
  it('has no expectation over a language model’s tokens', async () => {
    await expect(fishMask({ density: 0.1, fisher: 'expectation', where }).prepare(base, env)).rejects.toThrow(
      /over the classes of a classifier.*use fisher: 'label'/,
    );
  });
  it('keeps what is reserved out of its budget, and says what it needs', async () => {
    const model = await fishMask({ density: 0.1, reserved: 40, where }).prepare(base, env);
    expect((await placesOf(engine, model(base), 'fishMask', paths)).length).toBe(Math.floor(0.1 * (N + 40)) - 40);
    await expect(fishMask({ density: 0.01, reserved: 40, where }).prepare(base, env)).rejects.toThrow(
      /fishMask: a density of 0\.01 .*raise the density/,
    );
    await expect(fishMask({ where }).prepare(base, { engine })).rejects.toThrow(
      /fishMask: it chooses by gradients.*prepare\(model, \{ engine, batches, loss \}\)/,
    );
    expect(() => fishMask({ where })(base)).toThrow(/fishMask: needs numbers from the model/);
  });
});

describe('sam and snip', () => {
  it('sam squares the gradient of all data; snip takes |θ g|; a weight without a place stays bare', async () => {
    const g = sums(await Promise.all(batches.map((b) => gradientsAt(engine, base, paths, (m) => lossOf(m, b)))));
    const theta = await weightsOf(engine, base);
    const k = Math.floor(0.02 * N);
    const chosen = best(squares(g), k);
    const model = (await sam({ density: 0.02, where }).prepare(base, env))(base);
    expect(await placesOf(engine, model, 'sam', paths)).toEqual(chosen);
    const bare = paths.filter((_, l) => !chosen.some((c) => c.startsWith(`${l} `)));
    expect(bare.length).toBeGreaterThan(0);
    for (const path of bare) expect([...(await weightsOf(engine, model)).keys()].filter((p) => p.startsWith(`${path}.`))).toEqual([]);
    const scaled = g.map((list, l) => list.map((v, j) => Math.abs(v * theta.get(paths[l]!)![j]!)));
    expect(await placesOf(engine, (await snip({ density: 0.1, where }).prepare(base, env))(base), 'snip', paths)).toEqual(
      best(scaled, Math.floor(0.1 * N)),
    );
  });
  it('trained with weight decay, exactly the chosen entries differ', async () => {
    const model = (await sam({ density: 0.1, where }).prepare(base, env))(base);
    const moved = differing(await weightsOf(engine, base), await weightsOf(engine, merge(await trainedOn(engine, model, 4))));
    expect([...moved].flatMap(([path, at]) => at.map((j) => `${paths.indexOf(path)} ${j}`)).sort()).toEqual(
      await placesOf(engine, model, 'sam', paths),
    );
  });
});

describe('ltSft', () => {
  const options = { density: 0.1, where };
  const ready = (m: Model, seed: number) => ltSft(options).prepare(m, { engine, train: (x) => trainedOn(engine, x, 3, seed, 0) });
  it('takes the entries that full fine-tuning moved most, and leaves the model as it was', async () => {
    const [before, seen] = [await weightsOf(engine, base), { drift: [] as number[][] }];
    const method = await ltSft(options).prepare(base, {
      engine,
      train: async (x) => {
        const after = await trainedOn(engine, x, 3, 5, 0);
        const now = await weightsOf(engine, after);
        seen.drift = paths.map((p) => now.get(`${p}.shift`)!.map(Math.abs));
        return after;
      },
    });
    expect(await placesOf(engine, method(base), 'ltSft', paths)).toEqual(best(seen.drift, Math.floor(0.1 * N)));
    expect(differing(before, await weightsOf(engine, base)).size).toBe(0);
  });
  it('adds differences in any order: θ₀ + φ₁ + φ₂', async () => {
    const [language, task] = [perturb((await ready(base, 1))(base), 1), perturb((await ready(base, 20))(base), 2)];
    const [a, b] = [withDifferences(base, language, task), withDifferences(base, task, language)];
    const [x, y] = [await weightsOf(engine, await realize(a, engine)), await weightsOf(engine, await realize(b, engine))];
    const [zero, one, two] = [
      await weightsOf(engine, base),
      await weightsOf(engine, merge(language)),
      await weightsOf(engine, merge(task)),
    ];
    for (const [path, v] of x)
      for (const [j, e] of v.entries()) {
        expect(Math.abs(e - y.get(path)![j]!)).toBeLessThan(1e-15);
        expect(Math.abs(e - (one.get(path)![j]! + two.get(path)![j]! - zero.get(path)![j]!))).toBeLessThan(1e-14);
      }
    expect(differing(one, two).size).toBeGreaterThan(3);
    expect(() => withDifferences(base, language, base)).toThrow(/withDifferences: model 1 has no LT-SFT attached/);
  });
  it('may stand on another', async () => {
    const first = await ready(base, 1);
    const both = stack(first, await ready(perturb(first(base), 1), 2));
    expect((await placesOf(engine, both(base), 'ltSft', paths)).length).toBe(Math.floor(0.1 * N));
  });
  it('says that it needs a training, and one of the model it gave', async () => {
    await expect(ltSft(options).prepare(base, { engine })).rejects.toThrow(
      /ltSft: its first phase is full fine-tuning; give prepare\(model, \{ engine, train \}\)/,
    );
    await expect(ltSft(options).prepare(base, { engine, train: async () => base })).rejects.toThrow(/is not the one it was given/);
  });
});
