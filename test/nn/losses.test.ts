// The loss in chunks is the loss, with less memory.
import { describe, expect, it } from 'vitest';
import { account } from '../../core/account.ts';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import { leaf, stateOf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { decoder, gpt2 } from '../../nn/decoder.ts';
import { freeze } from '../../nn/freeze.ts';
import type { Batch, Model } from '../../nn/layer.ts';
import { nextToken, nextTokenInChunks } from '../../nn/losses.ts';
import { trainable } from '../../nn/tree.ts';
import { lora } from '../../peft/reparameterized/lora.ts';

const T = 7;
const V = 50;
const engine = float64();
const whole = decoder(gpt2({ vocabulary: V, width: 8, layers: 1, heads: 2, positions: 16 }), rng(1));
const tuned = lora({ rank: 2, where: ['q', 'up'] })(freeze(whole));
const batch: Batch & { targets: Tensor } = {
  ids: leaf(
    Array.from({ length: 2 * T }, (_, i) => (i * 11) % V),
    [2, T],
  ),
  targets: leaf(
    Array.from({ length: 2 * T }, (_, i) => (i % 5 === 2 ? -100 : (i * 7) % V)),
    [2, T],
  ),
};
type Loss = typeof nextToken;
const roots = (loss: Loss, m: Model): Tensor[] => {
  const l = loss(m, batch, context(T));
  return [l, ...grad(l, [...trainable(m).keys()].map(stateOf))];
};

describe('nextTokenInChunks', () => {
  for (const [name, m] of [
    ['everything trained', whole],
    ['LoRA', tuned],
  ] as const)
    for (const rows of [1, 4, 100])
      it(`has the loss and gradients of nextToken (${name}, ${rows} rows)`, async () => {
        const [a, b] = [roots(nextToken, m), roots(nextTokenInChunks(rows), m)];
        const named = (ts: readonly Tensor[]): Record<string, Tensor> => Object.fromEntries(ts.map((t, k) => [`${k}`, t]));
        const values = async (ts: readonly Tensor[]) => (await engine.compile(engine.store(), { outputs: named(ts) })).run();
        const [x, y] = [await values(a), await values(b)];
        for (const k of a.keys()) for (const [i, v] of x[`${k}`]!.entries()) expect(Math.abs(v - y[`${k}`]![i]!)).toBeLessThan(1e-12);
      });

  it('keeps no logits for backward, and holds fewer bytes at its peak', () => {
    const [a, b] = [account(roots(nextToken, tuned)), account(roots(nextTokenInChunks(2), tuned))];
    expect(b.peak).toBeLessThan(a.peak);
    expect(b.total.saved).toBeLessThan(a.total.saved);
  });

  it('refuses a chunk of nothing', () => {
    expect(() => roots(nextTokenInChunks(0), tuned)).toThrow(/rows must be a whole number from 1, got 0/);
  });
});
