// What methods ask of the trainer: penalties, masks, writes after the step, extra losses, and controllers.
import { describe, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { max } from '../../core/ops/map.ts';
import type { Numbers } from '../../core/plan.ts';
import { type Data, leaf, type Param, param, paramOf, type Tensor } from '../../core/tensor.ts';
import type { Controller, Hooks } from '../../nn/hooks.ts';
import { nextToken } from '../../nn/losses.ts';
import { adamw } from '../../optim/adamw.ts';
import { clipByNorm } from '../../optim/clip.ts';
import { sgd } from '../../optim/sgd.ts';
import { type TrainerOptions, trainer } from '../../optim/trainer.ts';
import { defineMethod } from '../../peft/attach.ts';
import { stack } from '../../peft/combinators.ts';
import { counting, frozen, type Text } from './tiny.ts';

type Own = { delta: Tensor; mask: Tensor; seen: Tensor };
/** y = x·(W + Δ)ᵀ with a buffer `mask` (ones in even columns) and a buffer `seen`. */
const probe = (hooks: (p: Own) => Hooks, control?: (paths: readonly string[], own: readonly Own[]) => Controller) =>
  defineMethod<'linear', object, Own>({
    name: 'probe',
    family: 'selective',
    paper: 'arXiv:0000.00000',
    at: 'linear',
    defaults: { where: ['q', 'v'] },
    init: ({ shape: [out, into] }) => ({
      train: { delta: param(new Float32Array(out! * into!).fill(0.01), [out!, into!]) },
      buffer: {
        mask: param(
          Float32Array.from({ length: into! }, (_, k) => (k % 2 === 0 ? 1 : 0)),
          [into!],
          { active: false },
        ),
        seen: param([0], [1], { active: false }),
      },
    }),
    around:
      (call, { delta }) =>
      (x, ctx) =>
        call(x, ctx).add(x.matmul(delta.T)),
    hooks,
    ...(control === undefined
      ? {}
      : {
          control: (at) =>
            control(
              at.map((a) => a.path),
              at.map((a) => a.own),
            ),
        }),
    count: () => ({ train: 0, stored: 0 }),
    startsAsBase: () => 'no',
  });
const FLOOR = Math.fround(0.01); // where Δ starts
const Q = 'trunk.blocks.0.attn.q.probe';
const start = (method: ReturnType<typeof probe>, more: Partial<TrainerOptions<ReturnType<typeof frozen>, Text>> = {}) =>
  trainer(method()(frozen()), { engine: float64(), loss: nextToken, optimizer: sgd({ lr: 0.1 }), ...more });

describe('penalty', () => {
  test('is added to the loss once per attachment, and its gradient moves the parameters', async () => {
    const t = await start(probe(({ delta }) => ({ penalty: () => delta.mul(1000).sum() })));
    const plain = await start(probe(() => ({})));
    const [a, b] = [await t.step(counting(1)), await plain.step(counting(1))];
    expect(a.loss).toBe(b.loss);
    expect(a.penalty).toBeCloseTo(4 * 64 * 10, 3); // q and v of two blocks, 8×8 each, 1000 × 0.01
    expect(b.penalty).toBe(0);
    const [x, y] = [(await t.state()).values, (await plain.state()).values];
    for (const [i, v] of x[`${Q}.delta`]!.data.entries()) expect(v - y[`${Q}.delta`]!.data[i]!).toBeCloseTo(-0.1 * 1000, 8);
  });
});

describe('afterGrad', () => {
  const masked = probe(({ delta, mask }) => ({ afterGrad: (g) => new Map([[paramOf(delta)!, g.get(paramOf(delta)!)!.mul(mask)]]) }));
  test('a masked entry keeps its bits, the others move', async () => {
    const t = await start(masked, { optimizer: adamw({ lr: 0.1, weightDecay: 0 }) });
    for (let k = 0; k < 3; k++) await t.step(counting(k));
    const { data } = (await t.state()).values[`${Q}.delta`]!;
    for (const [i, v] of data.entries())
      if (i % 2 === 1) expect(v).toBe(Math.fround(0.01));
      else expect(v).not.toBe(Math.fround(0.01));
  });
  test('comes before clipping: what is masked does not count in the norm', async () => {
    const [a, b] = [
      await start(masked, { clip: clipByNorm(1) }),
      await start(
        probe(() => ({})),
        { clip: clipByNorm(1) },
      ),
    ];
    const [x, y] = [await a.step(counting(1)), await b.step(counting(1))];
    expect(x.norm!).toBeGreaterThan(0);
    expect(x.norm!).toBeLessThan(y.norm!);
  });
  test('sees the sum of all micro-batches', async () => {
    const [a, b] = [await start(masked), await start(masked)];
    const parts = [counting(1), counting(2)];
    const texts = {
      ids: { data: parts.flatMap((p) => [...p.ids.data]), shape: [4, 4] },
      targets: { data: parts.flatMap((p) => [...p.targets.data]), shape: [4, 4] },
    };
    await a.step(parts);
    await b.step(texts);
    const [x, y] = [(await a.state()).values[`${Q}.delta`]!.data, (await b.state()).values[`${Q}.delta`]!.data];
    for (const [i, v] of x.entries()) expect(v).toBeCloseTo(y[i]!, 14);
  });
  test('may not answer for somebody else’s parameter', async () => {
    const t = await start(probe(({ delta }) => ({ afterGrad: () => new Map([[paramOf(param([1], [1]))!, delta]]) })));
    await expect(t.step(counting(1))).rejects.toThrow(
      /probe at trunk\.blocks\.0\.attn\.q: its afterGrad answers a gradient of a parameter it was not given/,
    );
  });
});

describe('afterStep', () => {
  test('changes what the optimizer wrote and updates buffers, from old values, new values and gradients', async () => {
    const t = await start(
      probe(({ delta, seen }) => ({
        afterStep: ({ grad, prev, next }) => {
          const p = paramOf(delta)!;
          const moved = prev(p).sub(next(p)).sub(grad.get(p)!.mul(0.1)); // sgd: old − new = lr·g
          return new Map([
            [p, max(next(p), FLOOR)],
            [paramOf(seen)!, prev(paramOf(seen)!).add(1).add(moved.mul(moved).sum().reshape(1))],
          ]);
        },
      })),
    );
    for (let k = 0; k < 3; k++) await t.step(counting(k));
    const { values } = await t.state();
    expect(values[`${Q}.seen`]!.data[0]).toBeCloseTo(3, 20);
    expect(Math.min(...values[`${Q}.delta`]!.data)).toBe(FLOOR);
    expect(Math.max(...values[`${Q}.delta`]!.data)).toBeGreaterThan(FLOOR);
  });
  test('may not write a parameter that is not in the model', async () => {
    const t = await start(probe(({ delta }) => ({ afterStep: () => new Map([[paramOf(param([1], [1]))!, delta]]) })));
    await expect(t.step(counting(1))).rejects.toThrow(/its afterStep answers a parameter that is not in the model/);
  });
});

test('auxiliary losses are summed under their names and trained on', async () => {
  const w = param([2], [1]);
  const t = await trainer<{ w: Tensor }, { x: Tensor }>(
    { w },
    {
      engine: float64(),
      optimizer: sgd({ lr: 1 }),
      loss: (m, { x }, ctx) => {
        ctx.aux('balance', m.w.sum());
        ctx.aux('balance', m.w.mul(2).sum());
        ctx.aux('other', leaf([5], [1]).sum());
        return m.w.mul(x).sum();
      },
    },
  );
  const r = await t.step({ x: { data: [10], shape: [1] } });
  expect(r).toMatchObject({ loss: 20, aux: { balance: 6, other: 5 } });
  expect((await t.state()).values.w!.data[0]).toBe(2 - (10 + 1 + 2));
  expect(await t.evaluate([{ x: { data: [10], shape: [1] } }])).toBe(-110); // the loss alone
});

describe('controllers', () => {
  test('one per application: told when it begins, called after each step, its writes are in force in the next', async () => {
    const log: string[] = [];
    const controlled = probe(
      () => ({}),
      (paths, own) => {
        log.push(`made for ${paths.length}`);
        return {
          begin: (total) => log.push(`begin ${total}`),
          after: async ({ step, total }, read) => {
            const p = paramOf(own[0]!.delta)!;
            const now = await read([p]);
            log.push(`after ${step} of ${total}: ${now.get(p)!.length}`);
            return step === 2 ? new Map([[p, new Float32Array(64).fill(7)]]) : null;
          },
        };
      },
    );
    const engine = float64();
    const model = stack(controlled({ where: 'q' }), controlled({ where: ['v', 'o'] }))(frozen());
    const t = await trainer(model, { engine, loss: nextToken, optimizer: sgd({ lr: 0 }), total: 3 });
    expect(log).toEqual(['made for 2', 'made for 4']);
    for (let k = 0; k < 2; k++) await t.step(counting(k));
    expect(log.slice(2)).toEqual(['begin 3', 'begin 3', 'after 1 of 3: 64', 'after 1 of 3: 64', 'after 2 of 3: 64', 'after 2 of 3: 64']);
    expect([...(await t.state()).values[`${Q}.delta`]!.data]).toEqual(Array(64).fill(7));
    await t.step(counting(3));
    expect([...(await t.state()).values[`${Q}.delta`]!.data]).toEqual(Array(64).fill(7));
    expect(log.filter((l) => l.startsWith('begin'))).toHaveLength(2);
  });
  test('may not write a parameter that is not in the model', async () => {
    const stray: Controller = {
      after: async (): Promise<ReadonlyMap<Param, Data>> => new Map<Param, Numbers>([[paramOf(param([1], [1]))!, Float64Array.of(2)]]),
    };
    const t = await start(
      probe(
        () => ({}),
        () => stray,
      ),
    );
    await expect(t.step(counting(1))).rejects.toThrow(/probe: its controller wrote a parameter that is not in the model/);
  });
});
