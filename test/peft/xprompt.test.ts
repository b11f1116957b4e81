// XPrompt: importance by the chain rule, nested masks, and pruned entries that stay 0 through the last stage.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { crossEntropy } from '../../core/ops/fused.ts';
import type { Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { realize } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { tensors } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';
import { xprompt } from '../../peft/additive/xprompt.ts';
import { importance } from '../../peft/additive/xpromptImportance.ts';
import { xpromptStages } from '../../peft/additive/xpromptStages.ts';
import { finish } from '../../peft/merge.ts';
import { gpt2Network, perturb, WIDTH } from '../laws/models.ts';
import { apart, own, rowsOf, trained } from './naive.ts';

const engine = float64();
const net = gpt2Network(1);
const attached = xprompt({ length: 4, pieces: 4 });
const at = 'trunk.xprompt';
const lossOf = (m: Model): Tensor => crossEntropy(m(net.batch, context(5)), net.targets);
/** Two texts, one loss each. */
const losses = [0, 1].map((k) => (m: Model): Tensor => {
  const one = (t: Tensor): Tensor => t.slice(0, k, k + 1);
  return crossEntropy(m({ ids: one(net.batch.ids), keyMask: one(net.batch.keyMask!) }, context(5)), one(net.targets));
});

test('importance is E |⟨p, ∂L/∂p⟩| of rows and of pieces', async () => {
  const model = perturb(attached(net.base), 2);
  const P = [...tensors(model)].find(({ path }) => path === `${at}.P`)!.tensor;
  const rows = (await own(engine, model, at)).P!;
  const gradients = await Promise.all(losses.map(async (l) => rowsOf(await engine.read(grad(l(model), [P])[0]!), WIDTH)));
  const part = (i: number, from: number, to: number): number =>
    gradients.reduce((s, g) => s + Math.abs(rows[i]!.slice(from, to).reduce((n, v, j) => n + v * g[i]![from + j]!, 0)) / 2, 0);
  const [row, piece] = [await importance(model, losses, 'rows', engine), await importance(model, losses, 'pieces', engine)];
  expect(
    apart(
      row.get('trunk')!,
      [0, 1, 2, 3].map((i) => part(i, 0, WIDTH)),
    ),
  ).toBeLessThan(1e-11);
  expect(
    apart(
      piece.get('trunk')!,
      [0, 1, 2, 3].flatMap((i) => [0, 2, 4, 6].map((c) => part(i, c, c + 2))),
    ),
  ).toBeLessThan(1e-11);
});

test('three stages: rows, then pieces of the rows left; the last starts from the first one’s values and leaves what is gone at 0', async () => {
  const seen: Record<string, number[][]>[] = [];
  const train = async (m: Model): Promise<Model> => {
    seen.push(await own(engine, m, at));
    await using t = await trainer<Model, object>(m, { engine, loss: lossOf, optimizer: adamw({ lr: 0.05 }) });
    for (let k = 0; k < 4; k++) await t.step({});
    const done = await t.model();
    seen.push(await own(engine, done, at));
    return done;
  };
  const done = await xpromptStages(attached(net.base), { engine, train, losses, keepRows: 0.5, keepPieces: 0.5 });
  const [, tuned, rewound, end] = seen as [
    Record<string, number[][]>,
    Record<string, number[][]>,
    Record<string, number[][]>,
    Record<string, number[][]>,
  ];
  expect(rewound.P).toEqual(tuned.P);
  const mask = rewound.mask!;
  expect(mask.flat().reduce((a, b) => a + b)).toBe(4); // half of the pieces of half of the rows
  expect(mask.filter((r) => r.some((v) => v === 1)).length).toBeLessThanOrEqual(2);
  expect(end.mask).toEqual(mask);
  const stored = (await own(engine, await realize(finish(done), engine), at)).P!;
  let [zeros, moved] = [0, 0];
  for (const [i, row] of stored.entries())
    for (const [j, v] of row.entries()) {
      if (mask[i]![Math.floor(j / 2)] === 0) {
        expect(Math.abs(v)).toBe(0);
        zeros++;
      } else if (v !== tuned.P![i]![j]) moved++;
    }
  expect([zeros, moved]).toEqual([4 * WIDTH - 8, 8]);
});

test('nothing pruned it is prompt tuning; refused: pieces that do not divide, shares, a model without it', async () => {
  expect(trained(attached(net.base))).toBe(4 * WIDTH);
  expect(() => xprompt({ length: 2, pieces: 3 })(net.base)).toThrow(/a row of 8 at trunk does not cut into 3 equal pieces/);
  const stages = { engine, train: async (m: Model) => m, losses, keepRows: 0, keepPieces: 1 };
  await expect(xpromptStages(attached(net.base), stages)).rejects.toThrow(/keepRows 0/);
  await expect(xpromptStages(net.base, { ...stages, keepRows: 1 })).rejects.toThrow(/attach xprompt/);
});
