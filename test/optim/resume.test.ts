// Resuming is exact to the last bit, and a state that does not fit is refused before anything changes.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import type { Model } from '../../nn/layer.ts';
import { nextToken } from '../../nn/losses.ts';
import { adamw } from '../../optim/adamw.ts';
import { clipByNorm } from '../../optim/clip.ts';
import { cosine } from '../../optim/schedule.ts';
import { sgd } from '../../optim/sgd.ts';
import type { TrainingState } from '../../optim/state.ts';
import { type TrainerOptions, trainer } from '../../optim/trainer.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { bits, counting, frozen, type Text } from './tiny.ts';

const engine = float64();
const dropping = lora({ rank: 2, dropout: 0.3 });
const start = (more: Partial<TrainerOptions<Model, Text>> = {}, model = dropping(frozen())) =>
  trainer<Model, Text>(model, {
    engine,
    loss: nextToken,
    optimizer: adamw({ lr: 0.05 }),
    schedule: cosine(),
    clip: clipByNorm(1),
    total: 6,
    seed: 11,
    ...more,
  });
const portion = (k: number) => (k % 3 === 2 ? [counting(k), counting(k + 50)] : counting(k));

describe('resume', () => {
  test('6 steps are 3 steps, a saved state, a new trainer and 3 more: identical bits, dropout included', () =>
    fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: 1e6 }), fc.integer({ min: 0, max: 6 }), async (seed, split) => {
        const whole = await start({ seed });
        const losses: number[] = [];
        for (let k = 0; k < 6; k++) losses.push((await whole.step(portion(k))).loss);
        const first = await start({ seed });
        for (let k = 0; k < split; k++) await first.step(portion(k));
        const saved = await first.state();
        const second = await start({ seed: seed + 1 }); // the state brings its own seed
        await second.load(saved);
        expect(second.progress).toEqual({ step: split, total: 6 });
        for (let k = split; k < 6; k++) expect((await second.step(portion(k))).loss).toBe(losses[k]);
        expect(bits(await second.state())).toEqual(bits(await whole.state()));
      }),
      { numRuns: 4 },
    ));
  test('k steps are k times one step, each by a new trainer', async () => {
    const whole = await start();
    for (let k = 0; k < 3; k++) await whole.step(portion(k));
    let state: TrainingState | null = null;
    for (let k = 0; k < 3; k++) {
      const one = await start();
      if (state !== null) await one.load(state);
      await one.step(portion(k));
      state = await one.state();
    }
    expect(bits(state!)).toEqual(bits(await whole.state()));
  });
  test('the seed matters, and steps draw differently', async () => {
    const [a, b] = [await start({ seed: 1 }), await start({ seed: 2 })];
    await a.step(counting(1));
    await a.step(counting(1));
    await b.step(counting(1));
    await b.step(counting(1));
    expect(bits(await a.state())).not.toEqual(bits({ ...(await b.state()), seed: 1 }));
    const still = await start({ optimizer: sgd({ lr: 0 }) }, lora({ rank: 2, dropout: 0.5, init: 'gaussian' })(frozen()));
    const state = await still.state();
    const loud = Object.fromEntries(
      Object.entries(state.values).map(([p, v]) => [p, { ...v, data: v.data.map((_, i) => Math.sin(i + 1)) }]),
    );
    await still.load({ ...state, values: loud });
    const losses = [await still.step(counting(1)), await still.step(counting(1))].map((r) => r.loss);
    expect(losses[0]).not.toBe(losses[1]); // same batch, same parameters, other mask
  });
  test('a state is a copy: later steps do not change it', async () => {
    const t = await start();
    const s = await t.state();
    const before = bits(s);
    await t.step(counting(1));
    expect(bits(s)).toEqual(before);
  });
});

describe('a state that does not fit is refused, and nothing changes', () => {
  const change = (s: TrainingState, path: string, f: (v: TrainingState['values'][string]) => object | undefined): TrainingState =>
    ({ ...s, values: { ...s.values, [path]: f(s.values[path]!) } }) as TrainingState;
  const A = 'trunk.blocks.0.attn.q.lora.A';
  const without = <T extends object>(o: T, key: string): T => Object.fromEntries(Object.entries(o).filter(([k]) => k !== key)) as T;
  test.each<[string, (s: TrainingState) => TrainingState, RegExp]>([
    ['another format', (s) => ({ ...s, format: 2 }) as unknown as TrainingState, /its format is 2, this version reads 1/],
    ['another optimizer', (s) => ({ ...s, optimizer: 'sgd' }), /it is one of sgd, and this trainer uses adamw/],
    ['half a step', (s) => ({ ...s, step: 1.5 }), /its step is 1\.5, not a whole number/],
    ['a negative step', (s) => ({ ...s, step: -1 }), /its step is -1/],
    ['a missing parameter', (s) => ({ ...s, values: without(s.values, A) }), /trunk\.blocks\.0\.attn\.q\.lora\.A is missing/],
    ['a parameter too many', (s) => change(s, 'head.lora.A', () => s.values[A]), /this model has no parameter head\.lora\.A; it has trunk/],
    ['another shape', (s) => change(s, A, (v) => ({ ...v, shape: [8, 2] })), /lora\.A has shape \[8, 2\], the model's is \[2, 8\]/],
    ['too few numbers', (s) => change(s, A, (v) => ({ ...v, data: v.data.slice(1) })), /lora\.A holds 15 numbers, its shape needs 16/],
    ['a missing moment', (s) => ({ ...s, moments: { ...s.moments, [A]: without(s.moments[A]!, 'v') } }), /v of trunk.*lora\.A is missing/],
    ['moments of nobody', (s) => ({ ...s, moments: { ...s.moments, x: {} } }), /no trained parameter x/],
  ])('%s', async (_, broken, message) => {
    const t = await start();
    await t.step(counting(1));
    const state = await t.state();
    const before = bits(state);
    await t.step(counting(2));
    const later = bits(await t.state());
    await expect(t.load(broken(state))).rejects.toThrow(message);
    await expect(t.load(broken(state))).rejects.toThrow(/Nothing was changed/);
    expect(bits(await t.state())).toEqual(later);
    await t.load(state);
    expect(bits(await t.state())).toEqual(before);
  });
  test('a state of another rank', async () => {
    const other = await start({}, lora({ rank: 3 })(frozen()));
    const t = await start();
    await expect(t.load(await other.state())).rejects.toThrow(/has shape \[3, 8\], the model's is \[2, 8\]/);
  });
});
