// MeZO: the estimate against derivatives and in the mean, values untouched by probing, a training rebuilt from seeds and slopes.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import { leaf, param, stateOf, type Tensor, topological } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { nextToken } from '../../nn/losses.ts';
import { trainable } from '../../nn/tree.ts';
import { adam } from '../../optim/adam.ts';
import { evaluate } from '../../optim/evaluate.ts';
import { mezo, mezoPrograms } from '../../optim/mezo.ts';
import { inspect } from '../../optim/program.ts';
import { sgd } from '../../optim/sgd.ts';
import { trainer } from '../../optim/trainer.ts';
import { adalora } from '../../peft/reparameterized/adalora.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { vera } from '../../peft/reparameterized/vera.ts';
import { counting, frozen, type Text, type Vector, vector } from './tiny.ts';

const engine = float64();
/** ½ Σ a w²: gradient a ⊙ w. */
const A = [1, 2, 3, 4];
const quadratic = (m: Vector, _: { x: Tensor }): Tensor =>
  m.w
    .mul(m.w)
    .mul(leaf(A, [4]))
    .mul(0.5)
    .sum();
const none = { x: { data: [0], shape: [1] } };

describe('mezo', () => {
  it('takes θ ← θ − η(g z + λθ), with g the derivative along z, by hand', async () => {
    const w = [1, -2, 0.5, 3];
    await using t = await mezo(vector(w), { engine, loss: quadratic, optimizer: sgd({ lr: 0.05, weightDecay: 0.1 }), seed: 3 });
    const { g, seed, loss } = await t.step(none);
    const z = [...rng(seed).split('mezo z w').normal(4)];
    const slope = z.reduce((s, v, i) => s + v * A[i]! * w[i]!, 0);
    expect(g).toBeCloseTo(slope, 7); // exact for a quadratic, up to rounding divided by 2ε
    const curved = 0.5 * 1e-6 * z.reduce((s, v, i) => s + A[i]! * v * v, 0);
    expect(loss).toBeCloseTo(0.5 * w.reduce((s, v, i) => s + A[i]! * v * v, 0) + curved, 9);
    const now = (await t.model()).w;
    const value = now.source.kind === 'state' ? [...now.source.param.value] : [];
    for (const [i, v] of value.entries()) expect(v).toBeCloseTo(w[i]! - 0.05 * (g * z[i]! + 0.1 * w[i]!), 12);
  });
  it('estimates without bias: the mean of g·z over many seeds is the gradient', async () => {
    const w = [1, -2, 0.5, 3];
    const model = vector(w);
    const { probe } = mezoPrograms(model, quadratic, inspect(model, sgd({ lr: 0 })), sgd({ lr: 0 }));
    const plan = await engine.compile(engine.store(), probe({ x: leaf([0], [1]) }));
    const sum = [0, 0, 0, 0];
    const N = 1000;
    for (let seed = 0; seed < N; seed++) {
      const at = async (scale: number): Promise<number> => (await plan.run({ 'mezo scale': scale }, seed)).loss[0]!;
      const g = ((await at(1e-3)) - (await at(-1e-3))) / 2e-3;
      for (const [i, z] of rng(seed).split('mezo z w').normal(4).entries()) sum[i]! += (g * z) / N;
    }
    // Var(g zᵢ) ≤ |∇|² + ∇ᵢ², so the mean is within 4 standard deviations
    const gradient = w.map((v, i) => A[i]! * v);
    const norm = Math.hypot(...gradient);
    for (const [i, s] of sum.entries())
      expect(Math.abs(s - gradient[i]!)).toBeLessThan((4 * Math.hypot(norm, gradient[i]!)) / Math.sqrt(N));
  });
  it('has no backward pass in what it runs, and moves nothing by probing', async () => {
    const model = lora({ rank: 2, dropout: 0.5 })(frozen());
    const { probe, apply } = mezoPrograms(model, nextToken, inspect(model, sgd({ lr: 1 })), sgd({ lr: 1 }));
    const program = probe({ ids: leaf([0, 1], [1, 2]), targets: leaf([1, 2], [1, 2]) });
    const nodes = topological([program.outputs.loss, ...apply.next.values()]);
    expect(nodes.filter((n) => n.at.phase === 'backward')).toEqual([]);
    expect(program.next).toBeUndefined();
    expect(nodes.flatMap(({ source: s }) => (s.kind === 'input' && s.fill?.dist === 'bernoulli' ? [s.name] : []))).toEqual([]); // no dropout
    const store = engine.store();
    const plan = await engine.compile(store, program);
    for (const scale of [0.1, -0.1]) await plan.run({ 'mezo scale': scale }, 5);
    const after = await store.read(trainable(model).keys());
    for (const [p, v] of after) expect([...v]).toEqual([...p.value]);
  });
  it('agrees with the directional derivative of the gradient', async () => {
    const model = vera({ rank: 2 })(frozen());
    const batch = counting(4);
    await using t = await mezo(model, { engine, loss: nextToken, eps: 1e-4, optimizer: sgd({ lr: 0 }) });
    const { g, seed } = await t.step(batch);
    const ids = (k: keyof Text): Tensor => leaf(batch[k].data, batch[k].shape);
    const loss = nextToken(model, { ids: ids('ids'), targets: ids('targets') }, context(4));
    const all = [...trainable(model)];
    const grads = grad(
      loss,
      all.map(([p]) => stateOf(p)),
    );
    let along = 0;
    for (const [k, [, path]] of all.entries()) {
      const [own, z] = [
        await engine.read(grads[k]!),
        rng(seed)
          .split(`mezo z ${path}`)
          .normal(grads[k]!.shape.reduce((a, b) => a * b, 1)),
      ];
      along += Array.from(own).reduce((s, v, i) => s + v * z[i]!, 0);
    }
    expect(g).toBeCloseTo(along, 6);
  });
  it('is rebuilt from its seeds and slopes, bit for bit, with a schedule and with Adam', async () => {
    for (const optimizer of [sgd({ lr: 0.02 }), adam({ lr: 0.02 })]) {
      const options = { engine, loss: nextToken, optimizer, schedule: ({ step }: { step: number }) => 1 / step };
      const model = lora({ rank: 1 })(frozen());
      await using t = await mezo(model, options);
      for (let k = 0; k < 4; k++) await t.step(counting(k));
      await using again = await mezo(model, options);
      await again.replay(t.moves);
      const values = (m: typeof model): number[] => [...trainable(m).keys()].flatMap((p) => [...p.value]);
      expect(values(await again.model())).toEqual(values(await t.model()));
      expect(values(await t.model())).not.toEqual(values(model));
    }
  });
  it('learns: LoRA by forward passes alone', async () => {
    const model = lora({ rank: 2, alpha: 8, where: ['q', 'v', 'up', 'down'] })(frozen(2));
    await using t = await mezo(model, { engine, loss: nextToken, eps: 1e-2, optimizer: adam({ lr: 0.03 }), seed: 1 });
    const batches = [0, 1, 2].map((k) => counting(k));
    const before = await evaluate(model, { engine, measure: nextToken, batches });
    for (let k = 0; k < 60; k++) await t.step(batches[k % 3]!);
    expect(await evaluate(await t.model(), { engine, measure: nextToken, batches })).toBeLessThan(before - 0.01);
  });
  it('refuses what would be wrong', async () => {
    const model = vector([1, 2]);
    await expect(mezo(model, { engine, loss: quadratic, eps: 0 })).rejects.toThrow(/eps must be above 0/);
    const two = { w: param([1], [1]), unread: param([1], [1]) };
    await using t = await mezo(two, { engine, loss: (m: typeof two, b: { x: Tensor }) => m.w.mul(b.x).sum() });
    await expect(t.step(none)).rejects.toThrow(/does not depend on unread.*freeze/);
    await expect(mezo(adalora({ rank: 2, targetRank: 1 })(frozen()), { engine, loss: nextToken })).rejects.toThrow(
      /adalora decides between steps/,
    );
    await using bad = await mezo(vector([1e200, 0, 0, 0]), { engine, loss: quadratic });
    await expect(bad.step(none)).rejects.toThrow(/the loss is Infinity. The step was not applied/);
    expect(bad.moves).toEqual([]);
  });
  it('moves what trainer moves, and nothing else', async () => {
    const model = lora({ rank: 1 })(frozen());
    await using a = await trainer(model, { engine, loss: nextToken, optimizer: sgd({ lr: 0.1 }) });
    await using b = await mezo(model, { engine, loss: nextToken, optimizer: sgd({ lr: 0.1 }) });
    await a.step(counting(1));
    await b.step(counting(1));
    expect([...trainable(await b.model()).values()]).toEqual([...trainable(await a.model()).values()]);
  });
});
