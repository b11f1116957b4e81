// MPT: each task's prompt by its equation, tasks mixed in one batch, distillation, and the start of a target task.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { paramOf } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { withValues } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { tensors, trainable } from '../../nn/tree.ts';
import { mpt } from '../../peft/additive/mpt.ts';
import { answerAndHidden, distillation, mptTarget } from '../../peft/additive/mptRecipe.ts';
import { promptTuning } from '../../peft/additive/promptTuning.ts';
import { gpt2Network, networks, numbersOf, perturb, TOKENS, WIDTH } from '../laws/models.ts';
import { apart, own, rowsOf, softmax, trained } from './naive.ts';

const engine = float64();
const [p, R] = [2, 2];
const prompted = (base: Model, rows: number[][]): Model => {
  const m = promptTuning({ length: rows.length })(base);
  return withValues(m, new Map([[[...trainable(m).keys()][0]!, Float64Array.from(rows.flat())]]));
};
/** P* ⊙ U_k V_k by hand. */
async function promptFor(m: Model, k: number): Promise<number[][]> {
  const t = await own(engine, m, 'trunk.mpt');
  const [U, V] = [rowsOf(t.U![k]!, R), rowsOf(t.V![k]!, WIDTH)];
  return t.P!.map((row, i) => row.map((v, j) => v * U[i]!.reduce((s, u, r) => s + u * V[r]![j]!, 0)));
}

test('one task: the prompt P* ⊙ U V in front of the text', async () => {
  for (const net of networks(1)) {
    const model = perturb(mpt({ length: p, ranks: R })(net.base), 2);
    expect(
      apart(await numbersOf(engine, net, model), await numbersOf(engine, net, prompted(net.base, await promptFor(model, 0)))),
    ).toBeLessThan(1e-12);
  }
});

test('several tasks: each row has the prompt of its task', async () => {
  const net = gpt2Network(3);
  const model = perturb(mpt({ length: p, ranks: R, tasks: 3 })(net.base), 4);
  const task = [2, 0];
  const y = await engine.read(model(net.batch, context(TOKENS)), { task });
  for (const [row, k] of task.entries()) {
    const alone = await numbersOf(engine, net, prompted(net.base, await promptFor(model, k)));
    const half = y.length / 2;
    expect(apart(y.slice(row * half, (row + 1) * half), alone.slice(row * half, (row + 1) * half))).toBeLessThan(1e-12);
  }
  await expect(engine.read(model(net.batch, context(TOKENS)), { task: [3, 0] })).rejects.toThrow(/task/);
  expect(trained(model)).toBe(p * WIDTH + 3 * R * (p + WIDTH));
  expect(mpt.method.count([{ dim: () => 8 } as never], { length: p, ranks: R, tasks: 1 })).toEqual({
    train: p * 8 + R * (p + 8),
    stored: p * 8,
  });
});

test('rank-1 ones leave P_k = P*', async () => {
  const net = gpt2Network(5);
  const m = mpt({ length: p, ranks: 1 })(net.base);
  const ones = withValues(
    m,
    new Map(
      [...trainable(m)].flatMap(([q, path]) => (path.endsWith('.P') ? [] : [[q, new Float64Array(q.value.length).fill(1)] as const])),
    ),
  );
  const P = (await own(engine, m, 'trunk.mpt')).P!;
  expect(await numbersOf(engine, net, ones)).toEqual(await numbersOf(engine, net, prompted(net.base, P)));
});

test('distillation is λ(KL + mean squared distance of hidden states), only the student learns, and 0 from oneself', async () => {
  const net = gpt2Network(6);
  const [student, teacher] = [perturb(mpt({ length: p, ranks: R })(net.base), 7), perturb(promptTuning({ length: p })(net.base), 8)];
  const c = context(TOKENS);
  const [s, t] = await Promise.all(
    [student, teacher].map(async (m) => {
      const a = answerAndHidden(m, net.batch, c);
      return { p: rowsOf(await engine.read(a.logits), 11).map(softmax), h: [...(await engine.read(a.hidden))] };
    }),
  );
  const kl = t!.p.reduce((n, row, k) => n + row.reduce((x, v, j) => x + v * Math.log(v / s!.p[k]![j]!), 0) / t!.p.length, 0);
  const mse = t!.h.reduce((n, v, k) => n + (v - s!.h[k]!) ** 2 / t!.h.length, 0);
  const loss = distillation(student, teacher, net.batch, c, 0.7);
  expect(await engine.item(loss)).toBeCloseTo(0.7 * (kl + mse), 11);
  const wanted = [student, teacher].map((m) => [...tensors(m)].find(({ tensor }) => paramOf(tensor) !== null)!.tensor);
  const [mine, theirs] = await Promise.all(grad(loss, wanted).map((g) => engine.read(g)));
  expect(mine!.some((v) => v !== 0)).toBe(true);
  expect(theirs!.every((v) => v === 0)).toBe(true);
  expect(Math.abs(await engine.item(distillation(student, student, net.batch, c)))).toBeLessThan(1e-13);
});

test('a target starts from P* and a task’s matrices, or their mean', async () => {
  const net = gpt2Network(9);
  const source = perturb(mpt({ length: p, ranks: R, tasks: 2 })(net.base), 1);
  const target = mpt({ length: p, ranks: R })(net.base);
  const one = mptTarget(target, source, 1);
  expect(apart((await promptFor(one, 0)).flat(), (await promptFor(source, 1)).flat())).toBeLessThan(1e-6);
  const [a, b] = [await own(engine, source, 'trunk.mpt'), await own(engine, mptTarget(target, source, 'mean'), 'trunk.mpt')];
  expect(
    apart(
      b.U![0]!,
      a.U![0]!.map((v, k) => (v + a.U![1]![k]!) / 2),
    ),
  ).toBeLessThan(1e-6);
  expect([...trainable(one).keys()].every((q) => q.active && !trainable(source).has(q))).toBe(true);
  expect(() => mptTarget(target, source, 2)).toThrow(/no source task 2; they are 0 … 1/);
  expect(() => mptTarget(mpt({ length: 3, ranks: R })(net.base), source, 0)).toThrow(/P is \[3, 8\] in the target and \[2, 8\]/);
  expect(() => mptTarget(target, net.base, 0)).toThrow(/no mpt on it/);
});
