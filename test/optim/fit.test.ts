// Laws of the training loop: how it ends, what it reports, and what it leaves behind.
import { describe, expect, test } from 'vitest';
import { type StepEvent, fit as train } from '../../optim/fit.ts';
import { linear } from '../../optim/schedule.ts';
import { sgd } from '../../optim/sgd.ts';
import { at, bits, pull, vector, vectorTrainer } from './tiny.ts';

const start = (total?: number, lr = 1) => vectorTrainer(vector([0]), sgd({ lr }), total === undefined ? {} : { total });
const ones = () => pull([1]);

describe('endings', () => {
  test('done: the trainer’s total', async () => {
    const t = await start(4);
    const r = await train(t, { batches: ones });
    expect(r).toMatchObject({ ending: 'done', step: 4, best: null });
    expect(await at(t)).toEqual([-4]);
    expect(r.losses).toEqual([0, -1, -2, -3].map((loss, k) => ({ step: k + 1, loss: loss === 0 ? 0 : loss })));
    expect((await train(t, { batches: ones })).losses).toEqual([]); // there is nothing left to do
  });
  test('done: an earlier step', async () => {
    const t = await start(4);
    expect((await train(t, { batches: ones, until: 3 })).step).toBe(3);
    expect((await train(t, { batches: ones })).step).toBe(4); // and on
  });
  test('no more batches, from arrays, generators and async generators; a generator is closed', async () => {
    let closed = 0;
    function* some() {
      try {
        yield ones();
        yield ones();
      } finally {
        closed++;
      }
    }
    async function* later() {
      yield* some();
    }
    for (const batches of [[ones(), ones()], some(), later()]) {
      const t = await start();
      expect(await train(t, { batches })).toMatchObject({ ending: 'no more batches', step: 2 });
    }
    expect(await train(await start(1), { batches: some() })).toMatchObject({ ending: 'done', step: 1 });
    expect(closed).toBe(3);
  });
  test('aborted: after the step that runs, with nothing put back', async () => {
    const t = await start(10);
    const stop = new AbortController();
    const evaluation = { every: 1, batches: () => [pull([1])] };
    const r = await train(t, {
      batches: ones,
      evaluation,
      earlyStopping: { patience: 100 },
      signal: stop.signal,
      onStep: ({ step }) => {
        if (step === 3) stop.abort();
      },
    });
    expect(r).toMatchObject({ ending: 'aborted', step: 3 });
    expect(await at(t)).toEqual([-3]);
    expect((await train(t, { batches: ones })).step).toBe(10);
  });
  test('an interrupted and resumed training is the one that ran through', async () => {
    const batches = (step: number) => pull([Math.sin(step)]);
    const make = () => vectorTrainer(vector([0.5]), sgd({ lr: 0.1, momentum: 0.9 }), { total: 8, schedule: linear() });
    const whole = await make();
    await train(whole, { batches });
    const first = await make();
    await train(first, { batches, until: 3 });
    const second = await make();
    await second.load(await first.state());
    await train(second, { batches });
    expect(bits(await second.state())).toEqual(bits(await whole.state()));
  });
});

describe('early stopping', () => {
  // w falls by 1 a step; the measure is |w + 3| by way of its batch: best at step 3
  const valley = async (patience: number, minDelta = 0) => {
    const t = await vectorTrainer(vector([0]), sgd({ lr: 1 }), { total: 20 });
    const measured = {
      ...t,
      get progress() {
        return t.progress;
      },
      evaluate: async () => Math.abs((await at(t))[0]! + 3),
    };
    const r = await train(measured, { batches: ones, evaluation: { every: 1, batches: () => [] }, earlyStopping: { patience, minDelta } });
    return { t, r };
  };
  test('stops after `patience` evaluations without a better one, and puts the best state back', async () => {
    const { t, r } = await valley(2);
    expect(r).toMatchObject({ ending: 'early stop', step: 3, best: { step: 3, loss: 0 } });
    expect(r.validations.map((v) => v.loss)).toEqual([2, 1, 0, 1, 2]);
    expect(await at(t)).toEqual([-3]);
    expect(t.progress.step).toBe(3);
  });
  test('minDelta: too small a gain is none', async () => {
    const { r } = await valley(2, 1.5);
    expect(r.best).toEqual({ step: 3, loss: 0 }); // 2, then 0 (1 is no gain of 1.5), then nothing
    const { r: strict } = await valley(2, 5);
    expect(strict).toMatchObject({ ending: 'early stop', step: 1, best: { step: 1, loss: 2 } });
  });
  test('a training that ends by itself has the best state too', async () => {
    const { t, r } = await valley(50);
    expect(r).toMatchObject({ ending: 'done', step: 3, best: { step: 3, loss: 0 } });
    expect(await at(t)).toEqual([-3]);
  });
});

test('events: step, total, loss, validation, speed, time left, rate', async () => {
  const events: StepEvent[] = [];
  const t = await vectorTrainer(vector([0]), sgd({ lr: 2 }), { total: 4, schedule: linear() });
  await train(t, {
    batches: () => [pull([1]), pull([1])],
    tokens: () => 50,
    evaluation: { every: 3, batches: () => [pull([1])] },
    onStep: async (e) => {
      events.push(e);
    },
  });
  expect(events.map((e) => [e.step, e.total, e.lr])).toEqual([
    [1, 4, 2],
    [2, 4, 1.5],
    [3, 4, 1],
    [4, 4, 0.5],
  ]);
  expect(events.map((e) => e.validation)).toEqual([null, null, -4.5, -5]);
  for (const e of events) {
    expect(e.tokensPerSecond).toBeGreaterThan(0);
    expect(Number.isFinite(e.eta)).toBe(true);
  }
  expect(events.at(-1)!.eta).toBe(0);
});

describe('refused', () => {
  test.each([
    ['endless batches without an end', { batches: ones }, /say until: n, or give the trainer total: n/],
    ['early stopping without evaluation', { batches: [], earlyStopping: { patience: 1 } }, /early stopping needs an evaluation/],
    [
      'patience 0',
      { batches: [], evaluation: { every: 1, batches: () => [] }, earlyStopping: { patience: 0 } },
      /patience must be a whole number/,
    ],
    ['every 0', { batches: [], evaluation: { every: 0, batches: () => [] } }, /evaluation\.every must be a whole number of steps/],
  ])('%s', async (_, options, message) => {
    await expect(train(await start(), options)).rejects.toThrow(message);
  });
  test('an error of a step ends the loop and leaves the last good state', async () => {
    const t = await start(5);
    await expect(train(t, { batches: (step) => pull([step === 3 ? Number.NaN : 1]) })).rejects.toThrow(/in step 3 the loss is NaN/);
    expect(t.progress.step).toBe(2);
    expect(await at(t)).toEqual([-2]);
  });
});
