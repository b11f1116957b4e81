// Laws of the trainer: it learns, parts make a whole, frozen stays frozen, errors name their place.
import { describe, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { log, sqrt } from '../../core/ops/map.ts';
import { rng } from '../../core/rng.ts';
import { leaf, param, paramOf, type Tensor } from '../../core/tensor.ts';
import { layer, type Model } from '../../nn/layer.ts';
import { linear } from '../../nn/linear.ts';
import { countTargets, nextToken } from '../../nn/losses.ts';
import { layers, params, tensors } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { clipByNorm } from '../../optim/clip.ts';
import { cosine, warmup } from '../../optim/schedule.ts';
import { sgd } from '../../optim/sgd.ts';
import { cut, NonFiniteError, type TrainerOptions, trainer } from '../../optim/trainer.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { at, bits, counting, frozen, gpt, joined, pull, slope, type Text, vector, vectorTrainer } from './tiny.ts';

const engine = float64();
const fresh = (more: Partial<TrainerOptions<Model, Text>> = {}, model = gpt()) =>
  trainer<Model, Text>(model, { engine, loss: nextToken, optimizer: adamw({ lr: 1e-2 }), ...more });

describe('a step', () => {
  test('the loss falls, in training and in evaluation, and the given model is as it was', async () => {
    const model = gpt();
    const before = await engine.read([...tensors(model)][0]!.tensor);
    const t = await fresh({ clip: clipByNorm(1) }, model);
    const first = await t.evaluate([counting(100), counting(101)]);
    for (let k = 0; k < 60; k++) await t.step(counting(k));
    expect(await t.evaluate([counting(100), counting(101)])).toBeLessThan(first / 3);
    expect(await engine.read([...tensors(model)][0]!.tensor)).toEqual(before);
    const trained = await t.model();
    const again = await fresh({}, trained);
    expect(await again.evaluate([counting(100)])).toBe(await t.evaluate([counting(100)]));
  });
  test('what is fed follows from the loss', async () => {
    const t = await trainer(gpt(), { engine, loss: nextToken, optimizer: adamw() });
    const keyMask = { data: [1, 1, 1, 0, 1, 1, 1, 1], shape: [2, 4] };
    expect((await t.step({ ...counting(1), keyMask })).loss).not.toBe((await t.step(counting(1))).loss);
  });
  test('reports step, loss, rate and norm', async () => {
    const t = await fresh({ schedule: warmup(2, cosine()), total: 10, clip: clipByNorm(1) });
    const before = await t.evaluate([counting(3)]);
    const r = await t.step(counting(3));
    expect(r).toMatchObject({ step: 1, lr: 0.005, penalty: 0, aux: {} });
    expect(r.loss).toBeCloseTo(before, 12); // the loss before the step
    expect(r.norm).toBeGreaterThan(0);
    expect((await t.step(counting(3))).lr).toBe(0.01);
    expect(t.progress).toEqual({ step: 2, total: 10 });
  });
  test('calls that overlap run one after the other', async () => {
    const [a, b] = [await fresh(), await fresh()];
    const reports = await Promise.all([a.step(counting(1)), a.step(counting(2)), a.step(counting(3))]);
    expect(reports.map((r) => r.step)).toEqual([1, 2, 3]);
    for (let k = 1; k <= 3; k++) await b.step(counting(k));
    expect(bits(await a.state())).toEqual(bits(await b.state()));
  });
  test('one plan per shape, one store: lengths may alternate', async () => {
    const own = float64();
    const t = await fresh({ engine: own });
    for (let k = 0; k < 6; k++) await t.step(counting(k, 2, k % 2 ? 3 : 5));
    expect(own.stats.plansCompiled).toBe(2);
    expect(t.progress.step).toBe(6);
  });
  test('parts of a batch that the loss does not read are ignored', async () => {
    const t = await vectorTrainer(vector([1]), sgd({ lr: 1 }));
    await t.step({ ...pull([2]), note: { data: [1, 2, 3], shape: [3] } } as ReturnType<typeof pull>);
    expect(await at(t)).toEqual([-1]);
  });
});

describe('accumulation', () => {
  const same = async (a: Awaited<ReturnType<typeof fresh>>, b: Awaited<ReturnType<typeof fresh>>): Promise<void> => {
    const [x, y] = [await a.state(), await b.state()];
    for (const [path, { data }] of Object.entries(x.values))
      for (const [i, v] of data.entries()) expect(Math.abs(v - y.values[path]!.data[i]!), path).toBeLessThan(1e-12);
  };
  const parts = [counting(1), counting(2), counting(3)];
  const options = { clip: clipByNorm(0.5), optimizer: sgd({ lr: 0.1, momentum: 0.9 }) };
  test('k micro-batches are one batch of k times the size', async () => {
    const [a, b] = [await fresh(options), await fresh(options)];
    for (let k = 0; k < 3; k++) {
      const [x, y] = [await a.step(parts), await b.step(joined(parts))];
      expect(x.loss).toBeCloseTo(y.loss, 12);
      expect(x.norm).toBeCloseTo(y.norm!, 12);
    }
    await same(a, b);
  });
  test('accumulate: k cuts a batch into k micro-batches', async () => {
    const [a, b] = [await fresh({ ...options, accumulate: 3 }), await fresh(options)];
    for (let k = 0; k < 2; k++) await Promise.all([a.step(joined(parts)), b.step(joined(parts))]);
    await same(a, b);
    await expect(a.step(counting(1, 4))).rejects.toThrow(/ids \[4, 4\] does not cut into 3 equal micro-batches/);
  });
  test('micro-batches with different numbers of targets, weighed by them', async () => {
    const masked = joined(parts);
    const targets = Int32Array.from(masked.targets.data, (x, k) => (k % 3 === 0 || k < 5 ? -100 : x));
    const whole = { ...masked, targets: { ...masked.targets, data: targets } };
    const [a, b] = [await fresh({ ...options, weigh: countTargets }), await fresh(options)];
    const [x, y] = [await a.step(cut(whole, 3)), await b.step(whole)];
    expect(x.loss).toBeCloseTo(y.loss, 12);
    await same(a, b);
  });
  test('a penalty counts once', async () => {
    const [a, b] = [await fresh(options, penalised()), await fresh(options, penalised())];
    const [x, y] = [await a.step(parts), await b.step(joined(parts))];
    expect(x.penalty).toBeCloseTo(y.penalty, 12);
    await same(a, b);
  });
  test('a step that fails half way leaves no half sum behind', async () => {
    const [a, b] = [await vectorTrainer(vector([1, 2]), sgd({ lr: 1 })), await vectorTrainer(vector([1, 2]), sgd({ lr: 1 }))];
    await expect(a.step([pull([1, 1]), pull([Number.NaN, 1])])).rejects.toThrow(NonFiniteError);
    for (const t of [a, b]) await t.step([pull([1, 0]), pull([0, 1])]);
    expect(await at(a)).toEqual(await at(b));
  });
});

/** A model whose adapter brings a penalty (a squared parameter). */
function penalised() {
  const model = gpt();
  const w = param([3], [1]);
  return layer(
    'model',
    { base: model, extra: { w } },
    (f) => f.base,
    (f) => ({
      method: 'extra',
      field: 'extra',
      hooks: { penalty: () => f.extra.w.mul(f.extra.w).sum() },
      under: model,
      fold: null,
      finish: null,
      byRow: false,
      application: { method: 'extra', config: null, control: null },
    }),
  );
}

describe('what is not trained', () => {
  test('frozen leaves are the same objects with the same bits', async () => {
    const base = frozen();
    const copies = [...tensors(base)].map(
      ({ tensor }) => [tensor, tensor.source.kind === 'leaf' ? tensor.source.data.slice() : null] as const,
    );
    const t = await fresh({}, lora({ rank: 2 })(base));
    for (let k = 0; k < 3; k++) await t.step(counting(k));
    const after = new Set([...tensors(await t.model())].map(({ tensor }) => tensor));
    for (const [tensor, copy] of copies) {
      expect(after.has(tensor)).toBe(true);
      expect(tensor.source.kind === 'leaf' && tensor.source.data).toEqual(copy);
    }
  });
  test('inactive parameters keep value and have no moments', async () => {
    type Two = { a: Tensor; b: Tensor };
    const tree: Two = { a: param([1, 2], [2]), b: param([0.1, -0], [2], { active: false }) };
    const t = await trainer<Two, { g: Tensor }>(tree, {
      engine,
      loss: (m, { g }) => m.a.add(m.b).mul(g).sum(),
      optimizer: adamw({ lr: 0.1 }),
    });
    for (let k = 0; k < 3; k++) await t.step(pull([1, -1]));
    const s = await t.state();
    expect(Object.keys(s.moments)).toEqual(['a']);
    expect(bits(s).b).toEqual([Math.fround(0.1), '-0']);
  });
  test('a parameter the loss does not read stays, moments included, as with PyTorch’s missing gradients', async () => {
    type Two = { a: Tensor; b: Tensor };
    const tree: Two = { a: param([1, 2], [2]), b: param([5], [1]) };
    const t = await trainer<Two, { g: Tensor }>(tree, {
      engine,
      loss: (m, { g }) => m.a.mul(g).sum(),
      optimizer: adamw({ lr: 0.1, weightDecay: 1 }),
    });
    await t.step(pull([1, 1]));
    await t.step([pull([1, 1]), pull([2, 1])]);
    expect((await t.state()).values.b!.data[0]).toBe(5);
  });
  test('tied weights are one parameter with one state', async () => {
    const t = await fresh();
    const s = await t.state();
    expect(Object.keys(s.values)).toHaveLength(params(gpt()).size);
    expect(Object.keys(s.moments).filter((p) => p === 'head.weight')).toEqual([]);
    await t.step(counting(1));
    const m = await t.model();
    const values = [...tensors(m)]
      .filter(({ path }) => path === 'embed.weight' || path === 'head.weight')
      .map(({ tensor }) => paramOf(tensor));
    expect(values).toHaveLength(2);
    expect(values[0]).toBe(values[1]);
  });
});

describe('a second trainer', () => {
  test('on an equal structure compiles no kernel and no plan', async () => {
    const own = float64();
    const run = async (seed: number): Promise<void> => {
      await using t = await fresh({ engine: own, optimizer: adamw({ lr: 1e-3 * seed }) }, lora({ rank: 2, seed })(frozen(seed)));
      await t.step(counting(seed));
      await t.step([counting(seed), counting(seed)]);
      await t.evaluate([counting(seed)]);
    };
    await run(1);
    const { kernelsCompiled, plansCompiled } = own.stats;
    await run(2);
    expect(own.stats).toMatchObject({ kernelsCompiled, plansCompiled });
  });
  test('model(tree) puts the values into any tree that shares the parameters', async () => {
    const model = vector([1, 2]);
    const t = await vectorTrainer(model, sgd({ lr: 1 }));
    await t.step(pull([1, 1]));
    const other = await t.model({ nested: [model.w], foreign: param([7], [1]) });
    expect([...paramOf(other.nested[0]!)!.value]).toEqual([0, 1]);
    expect([...paramOf(other.foreign)!.value]).toEqual([7]);
  });
});

describe('numbers that are not finite', () => {
  test('a NaN loss stops, names the first layer that made it, and keeps the last good state', async () => {
    const model = gpt();
    const broken = [...layers(model)].find(({ path }) => path === 'trunk.blocks.1.mlp.up')!;
    expect(broken.layer.kind).toBe('linear');
    const t = await fresh({ optimizer: adamw({ lr: 1e-2 }) }, model);
    await t.step(counting(1));
    const good = await t.state();
    const w = good.values['trunk.blocks.1.mlp.up.weight']!;
    const poisoned = { ...w, data: w.data.map((x, k) => (k === 3 ? Number.NaN : x)) };
    await t.load({ ...good, values: { ...good.values, 'trunk.blocks.1.mlp.up.weight': poisoned } });
    const before = bits(await t.state());
    const error = await t.step(counting(2)).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(NonFiniteError);
    expect(String(error)).toMatch(
      /in step 2 the loss is NaN\. First result that is not finite: .*trunk\.blocks\.1\.mlp\.up.*the state is that of step 1/,
    );
    expect(bits(await t.state())).toEqual(before);
    await t.load(good);
    expect((await t.step(counting(2))).step).toBe(2); // and training can go on
  });
  test('a finite loss with an infinite gradient is caught in the same step', async () => {
    const t = await trainer<{ w: Tensor }, { g: Tensor }>(
      { w: param([0], [1]) },
      { engine, loss: (m, { g }) => sqrt(m.w).mul(g).sum(), optimizer: sgd() },
    );
    await expect(t.step(pull([1]))).rejects.toThrow(/a gradient is not a finite number\. First result that is not finite: .*backward/);
    expect((await t.state()).values.w!.data[0]).toBe(0);
    expect(t.progress.step).toBe(0);
  });
  test('an infinite loss is one too', async () => {
    const t = await trainer<{ w: Tensor }, { g: Tensor }>(
      { w: param([0], [1]) },
      { engine, loss: (m, { g }) => log(m.w).mul(g).sum(), optimizer: sgd() },
    );
    await expect(t.step(pull([-1]))).rejects.toThrow(/the loss is Infinity/);
  });
});

describe('refused', () => {
  test('nothing to train', async () => {
    await expect(fresh({}, frozen())).rejects.toThrow(/no trainable parameter; attach a method, or unfreeze/);
  });
  test('a loss that is not one number', async () => {
    const t = await vectorTrainer(vector([1, 2]), sgd(), { loss: (m, { g }) => m.w.mul(g) });
    await expect(t.step(pull([1, 1]))).rejects.toThrow(/the loss must be one number, got \[2\]/);
  });
  test('a loss that does not depend on the parameters', async () => {
    const t = await vectorTrainer(vector([1]), sgd(), { loss: (_, { g }) => g.sum() });
    await expect(t.step(pull([1]))).rejects.toThrow(/depends on none of the trained parameters \(w\)/);
  });
  test('a batch that misses a part', async () => {
    const t = await fresh();
    await expect(t.step({ ids: counting(1).ids } as ReturnType<typeof counting>)).rejects.toThrow(/nextToken: the batch has no targets/);
  });
  test('a schedule that needs the end when nobody said it', async () => {
    const t = await vectorTrainer(vector([1]), sgd(), { schedule: cosine() });
    await expect(t.step(pull([1]))).rejects.toThrow(/schedule cosine: it needs to know how many steps/);
  });
  test('an empty step, and weights that sum to nothing', async () => {
    const t = await vectorTrainer(vector([1]), sgd(), { weigh: () => 0 });
    await expect(t.step([])).rejects.toThrow(/a step needs a batch, got none/);
    await expect(t.step([pull([1]), pull([1])])).rejects.toThrow(/weights of 0 or more with a sum above 0/);
    await expect(t.evaluate([])).rejects.toThrow(/evaluate was given no batches/);
  });
  test('a trainer that was disposed of', async () => {
    const t = await vectorTrainer(vector([1]), sgd());
    await t[Symbol.asyncDispose]();
    await expect(t.step(pull([1]))).rejects.toThrow(/disposed of; make a new one/);
  });
  test('accumulate below 1', async () => {
    await expect(vectorTrainer(vector([1]), sgd(), { accumulate: 0 })).rejects.toThrow(/accumulate must be a whole number from 1/);
  });
});

test('evaluate takes another measure, weighed', async () => {
  const t = await vectorTrainer(vector([1, 2]), sgd(), { weigh: (b) => b.g.data[0]! });
  const first = (m: { w: Tensor }, { g }: { g: Tensor }): Tensor => g.sum().add(m.w.sum().mul(0));
  expect(await t.evaluate([pull([1, 0]), pull([3, 0])], first)).toBeCloseTo(2.5, 12); // (1·1 + 3·3)/4
  expect(await t.evaluate([pull([1, 0]), pull([3, 0])])).toBeCloseTo(2.5, 12);
  expect(slope.length).toBe(2);
});

test('a linear layer finds the line it was shown', async () => {
  const r = rng(5);
  const x = r.normal(32);
  const y = x.map((v) => 2 * v - 1);
  const model = linear(param([0], [1, 1]), param([0], [1]));
  const t = await trainer<typeof model, { x: Tensor; y: Tensor }>(model, {
    engine,
    loss: (m, b, ctx) => {
      const d = m(b.x, ctx).sub(b.y);
      return d.mul(d).mean();
    },
    optimizer: sgd({ lr: 0.3 }),
  });
  const batch = { x: { data: x, shape: [32, 1] }, y: { data: y, shape: [32, 1] } };
  for (let k = 0; k < 60; k++) await t.step(batch);
  const { weight, bias } = (await t.state()).values;
  expect(weight!.data[0]).toBeCloseTo(2, 5);
  expect(bias!.data[0]).toBeCloseTo(-1, 5);
  expect(leaf([1], [1]).shape).toEqual([1]);
});
