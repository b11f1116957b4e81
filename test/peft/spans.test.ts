// Spans of a batch and repeated batches: every row answers as its own model would, and what they refuse.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { iota } from '../../core/ops/index.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import type { Model } from '../../nn/layer.ts';
import { trainable } from '../../nn/tree.ts';
import { houlsby } from '../../peft/additive/houlsby.ts';
import { mixed } from '../../peft/mixed.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { inSpans, repeated } from '../../peft/spans.ts';
import { bertNetwork, gpt2Network, perturb } from '../laws/models.ts';
import { apart } from './naive.ts';

const engine = float64();
const ids = leaf([1, 2, 3, 4, 5, 6, 7, 8, 9], [3, 3]);
const keyMask = leaf([1, 1, 1, 0, 1, 1, 1, 1, 0], [3, 3]);
const rowsOf = (all: ArrayLike<number>, n: number): number[][] => {
  const each = all.length / n;
  return Array.from({ length: n }, (_, r) => Array.from({ length: each }, (_, k) => all[r * each + k]!));
};

for (const net of [gpt2Network(3), bertNetwork(3)]) {
  const models = [
    perturb(lora({ rank: 2 })(net.base), 1),
    perturb(houlsby({ bottleneck: 3 })(net.base), 2),
    net.base,
    perturb(lora({ rank: 2 })(net.base), 3),
  ];
  const read = async (m: Model, n: number): Promise<number[][]> => rowsOf(await engine.read(m({ ids, keyMask }, context(3))), n);

  test(`${net.name}: repeated answers all rows of the first model, then those of the next`, async () => {
    const [together, alone] = [await read(repeated(models), 12), await Promise.all(models.map((m) => read(m, 3)))];
    expect(apart(together.flat(), alone.flat(2))).toBeLessThan(1e-12);
    expect(apart((await read(repeated([models[0]!]), 3)).flat(), alone[0]!.flat())).toBeLessThan(1e-12);
    expect([...trainable(repeated(models)).keys()].length).toBe(new Set(models.flatMap((m) => [...trainable(m).keys()])).size);
  });
  test(`${net.name}: rows in spans, an empty one among them`, async () => {
    const got = await read(mixed(models, inSpans(1, 0, 1, 1)), 3);
    for (const [row, n] of [0, 2, 3].entries()) expect(apart(got[row]!, (await read(models[n]!, 3))[row]!)).toBeLessThan(1e-12);
  });
  test(`${net.name}: masks, positions and chosen tokens of the context are repeated too`, async () => {
    const positions = iota(3).add(leaf([0, 1, 2], [3, 1])); // [3, 3]
    const own = net.name === 'gpt2' ? { only: leaf([2, 1, 0], [3]) } : {};
    const answer = (m: Model): Tensor => m({ ids }, context(3, { keyMask, positions, ...own }));
    const together = await engine.read(answer(repeated(models)));
    const alone: number[] = [];
    for (const m of models) alone.push(...(await engine.read(answer(m))));
    expect(apart(together, Float64Array.from(alone))).toBeLessThan(1e-12);
  });
}

test('sizes that are not the batch, and a cache, are refused', () => {
  const { base } = gpt2Network(4);
  expect(() => mixed([lora({ rank: 2 })(base), base], inSpans(1, 1))({ ids }, context(3))).toThrow(/1 \+ 1 rows are not the 3/);
  const cache = { filled: false, exchange: (k: Tensor, v: Tensor) => ({ k, v }) };
  expect(() => repeated([base, lora({ rank: 2 })(base)])({ ids }, context(3, { cache }))).toThrow(/a cache holds the rows of one batch/);
});
