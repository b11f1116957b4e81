// SPoT: task embeddings, similarity, and where a target prompt starts.
import { expect, test } from 'vitest';
import { withValues } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { promptOf, similarity, spot, taskEmbedding } from '../../peft/additive/spot.ts';
import { spotStart, transferred } from '../../peft/additive/spotTransfer.ts';
import { gpt2Network, WIDTH } from '../laws/models.ts';
import { apart } from './naive.ts';

const { base } = gpt2Network(1);
/** A model whose prompt has the rows a·e_k + row number. */
const prompt = (values: (i: number, j: number) => number, length = 3): Model => {
  const m = spot({ length })(base);
  return withValues(
    m,
    new Map([[promptOf(m), Float64Array.from({ length: length * WIDTH }, (_, k) => values(Math.floor(k / WIDTH), k % WIDTH))]]),
  );
};
const along = (axis: number): Model => prompt((i, j) => (j === axis ? i + 1 : 0));

test('a task is embedded as the mean of its prompt’s rows, compared by cosine', () => {
  expect([...taskEmbedding(along(2))]).toEqual([0, 0, 2, 0, 0, 0, 0, 0]);
  const [a, b] = [taskEmbedding(prompt((i, j) => i + j)), taskEmbedding(prompt((i, j) => 3 * (i + j)))];
  expect(similarity(a, b)).toBeCloseTo(1, 12);
  expect(similarity(taskEmbedding(along(1)), taskEmbedding(along(2)))).toBe(0);
  expect(() => similarity(new Float64Array(2), new Float64Array(2))).toThrow(/no direction/);
});

test('the target starts from the most similar source, or from the best ones weighed by similarity', () => {
  const early = [along(0), prompt((_, j) => (j === 0 || j === 1 ? 1 : 0)), along(1)];
  const trained = [prompt(() => 10), prompt(() => 20), prompt(() => 30)];
  const target = prompt((_, j) => (j === 1 ? 1 : 0));
  const best = spotStart({ early, trained, target, top: 1 });
  expect(best.order.map((o) => o.source)).toEqual([2, 1, 0]);
  expect(promptOf(best.model).value.every((v) => v === 30)).toBe(true);
  const two = spotStart({ early, trained, target, top: 2 });
  const w = Math.SQRT1_2; // the second's similarity; the first's is 1
  expect(apart(promptOf(two.model).value, Array(3 * WIDTH).fill((30 + 20 * w) / (1 + w)))).toBeLessThan(1e-6);
  expect(promptOf(target).value[1]).toBe(1); // the target given is as it was
});

test('refused: prompts of other lengths, sources not similar at all, no prompt, one weight too few', () => {
  expect(() => transferred(along(0), [prompt(() => 1, 2)], [1])).toThrow(/prompt of source 0 is \[2, 8\], the target's \[3, 8\]/);
  expect(() => transferred(along(0), [along(1)], [])).toThrow(/as many weights/);
  expect(() => promptOf(base)).toThrow(/no prompt/);
  const [early, trained] = [
    [along(0), along(1)],
    [along(0), along(1)],
  ];
  expect(() => spotStart({ early, trained, target: along(0), top: 2 })).toThrow(/not similar at all/);
  expect(() => spotStart({ early, trained, target: along(0), top: 3 })).toThrow(/top/);
});
