// Parameter groups: who gets which learning rate and decay.
import { describe, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { adamw } from '../../optim/adamw.ts';
import { inPattern } from '../../optim/groups.ts';
import { sgd } from '../../optim/sgd.ts';
import { trainer } from '../../optim/trainer.ts';
import { pull } from './tiny.ts';

const path = 'trunk.blocks.10.attn.q.lora.A';
describe('a pattern', () => {
  test.each([
    ['q', true],
    ['attn.q', true],
    ['lora', true],
    [path, true],
    ['att', false],
    ['blocks.1', false],
    ['q.A', false],
    [/blocks\.\d+\.attn/, true],
    [/^attn/, false],
    [['mlp', 'A'], true],
    [(p: string) => p.endsWith('.A'), true],
  ])('%s', (where, hit) => {
    expect(inPattern(where, path)).toBe(hit);
  });
});

type Pair = { readonly a: { readonly w: Tensor }; readonly b: { readonly w: Tensor; readonly g: Tensor } };
const pair = (): Pair => ({
  a: { w: param([1], [1]) },
  b: { w: param([1], [1], { lr: 4 }), g: param([1], [1], { decay: false }) },
});
const loss = (m: Pair, { g }: { g: Tensor }): Tensor => m.a.w.add(m.b.w).add(m.b.g).mul(g).sum();
const moved = async (optimizer: Parameters<typeof trainer>[1]['optimizer'], g: number): Promise<number[]> => {
  const t = await trainer(pair(), { engine: float64(), loss, optimizer });
  await t.step(pull([g]));
  const { values } = await t.state();
  return ['a.w', 'b.w', 'b.g'].map((k) => values[k]!.data[0]! - 1);
};
const close = (got: readonly number[], want: readonly number[]): void => {
  for (const [i, w] of want.entries()) expect(got[i]).toBeCloseTo(w, 12);
};

describe('rates', () => {
  test('multipliers of group and parameter multiply', async () => {
    close(await moved(sgd({ lr: 0.1 }), 1), [-0.1, -0.4, -0.1]);
    close(await moved(sgd({ lr: 0.1, groups: [{ where: 'b', lr: 0.5 }] }), 1), [-0.1, -0.2, -0.05]);
  });
  test('decay: the optimizer’s, the group’s, and none where the parameter says so', async () => {
    close(await moved(adamw({ lr: 0.1, weightDecay: 0.5 }), 0), [-0.05, -0.2, 0]);
    close(await moved(adamw({ lr: 0.1, weightDecay: 0.5, groups: [{ where: 'b', weightDecay: 0.1 }] }), 0), [-0.05, -0.04, 0]);
    close(await moved(adamw({ lr: 0.1, groups: [{ where: /w$/, weightDecay: 0 }] }), 0), [0, 0, 0]);
  });
  test('the first group that matches counts', async () => {
    const groups = [
      { where: 'b.g', lr: 2 },
      { where: 'b', lr: 3 },
    ];
    close(await moved(sgd({ lr: 0.1, groups }), 1), [-0.1, -1.2, -0.2]);
  });
  test('a group that matches nothing is refused with what there is', async () => {
    await expect(moved(sgd({ groups: [{ where: 'lora_B', lr: 16 }] }), 1)).rejects.toThrow(
      /groups: lora_B matches no trained parameter. Trained are a\.w, b\.w, b\.g/,
    );
  });
  test('another rate is another number, not another kernel', async () => {
    const engine = float64();
    const run = async (lr: number, weightDecay: number, multiplier: number): Promise<void> => {
      const groups = [{ where: 'b', lr: multiplier, weightDecay }];
      const t = await trainer(pair(), { engine, loss, optimizer: adamw({ lr, groups }) });
      await t.step(pull([1]));
    };
    await run(0.1, 0.2, 3);
    const before = engine.stats.kernelsCompiled;
    await run(0.01, 0, 16);
    expect(engine.stats.kernelsCompiled).toBe(before);
  });
});
