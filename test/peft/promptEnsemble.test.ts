// Prompt ensembling: rows are single runs, and the vote is the majority with ties by mean probability.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { leaf } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { type Model, ofKind } from '../../nn/layer.ts';
import { accuracy } from '../../nn/losses.ts';
import { majority, promptEnsemble, replicated, votes } from '../../peft/additive/promptEnsemble.ts';
import { promptTuning } from '../../peft/additive/promptTuning.ts';
import { bertNetwork, perturb, TOKENS } from '../laws/models.ts';
import { apart, rowsOf, softmax } from './naive.ts';

const engine = float64();
const net = bertNetwork(3);
const prompts = [1, 2, 3].map((seed) => perturb(promptTuning({ length: 2 })(net.base), seed));
const logits = async (m: Model): Promise<number[][]> => rowsOf(await engine.read(m(net.batch, context(TOKENS))), 11);

test('row e·N + i of the one batch is example e run with prompt i, padding and segments included', async () => {
  const members = ofKind(promptEnsemble(prompts).fields.members, 'model');
  const all = Object.fromEntries(Object.entries(net.batch).map(([k, t]) => [k, replicated(t!, 3)])) as unknown as typeof net.batch;
  const together = rowsOf(await engine.read(members(all, context(TOKENS))), 11);
  for (const [i, m] of prompts.entries()) {
    const alone = await logits(m);
    for (const e of [0, 1])
      for (let t = 0; t < TOKENS; t++) expect(apart(together[(e * 3 + i) * TOKENS + t]!, alone[e * TOKENS + t]!)).toBeLessThan(1e-12);
  }
});

test('the votes of an ensemble are those counted by hand; equal prompts vote as one', async () => {
  const best = (row: number[]): number => row.indexOf(Math.max(...row));
  const each = await Promise.all(prompts.map(logits));
  const got = await logits(promptEnsemble(prompts));
  const expected = got.map((_, k) =>
    got[0]!.map((_, c) => each.reduce((s, l) => s + (best(l[k]!) === c ? 1 : 0) + softmax(l[k]!)[c]! / 6, 0)),
  );
  expect(apart(got.flat(), expected.flat())).toBeLessThan(1e-12);
  const same = await logits(promptEnsemble([prompts[0]!, prompts[0]!, prompts[0]!]));
  expect(same.map(best)).toEqual(each[0]!.map(best));
});

test('ties go to the higher mean probability, and probability never outvotes a vote', async () => {
  const l = (p: number[]): number[] => p.map(Math.log);
  const vote = async (...rows: number[][]): Promise<number> => {
    const scores = await engine.read(votes(leaf(Float64Array.from(rows.flatMap(l)), [rows.length, 3]), rows.length));
    return scores.indexOf(Math.max(...scores));
  };
  expect(await vote([0.5, 0.4, 0.1], [0.1, 0.8, 0.1])).toBe(1); // one each: 0.3 against 0.6
  expect(await vote([0.9, 0.05, 0.05], [0.3, 0.4, 0.3], [0.3, 0.4, 0.3])).toBe(1); // two votes against a mean of 0.5
  expect(majority(['a', 'b', 'b', 'a'], [0.9, 0.2, 0.3, 0.1])).toBe('a');
  expect(majority(['a', 'b', 'b'], [1, 0.1, 0.1])).toBe('b');
  expect(() => majority(['a'], [])).toThrow(/one probability each/);
});

test('accuracy counts the vote', async () => {
  const winners = (await logits(promptEnsemble(prompts))).map((r) => r.indexOf(Math.max(...r)));
  const labels = leaf(
    winners.map((w, k) => (k === 0 ? (w + 1) % 11 : w)),
    [2, TOKENS],
  );
  expect(await engine.item(accuracy(promptEnsemble(prompts), { ...net.batch, labels }, context(TOKENS)))).toBeCloseTo(0.9, 12);
});
