// P-tuning: the encoders by hand, the stored table, templates with pseudo-tokens, and the published count.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { leaf } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { realize } from '../../nn/freeze.ts';
import { lstm } from '../../peft/additive/lstm.ts';
import { encoded, encoderSize, newEncoder } from '../../peft/additive/promptEncoder.ts';
import { pTuning } from '../../peft/additive/pTuning.ts';
import { pTuningTemplate } from '../../peft/additive/pTuningTemplate.ts';
import { finish } from '../../peft/merge.ts';
import { gpt2Network, llamaNetwork, numbersOf, perturb, WIDTH } from '../laws/models.ts';
import { affine, apart, each, layerAt, own, relu, rowsOf, sigmoid, trained } from './naive.ts';

const engine = float64();

/** One direction of an LSTM layer as PyTorch describes it, row after row. */
function steps(x: number[][], [Wx, Wh, bx, bh]: number[][][]): number[][] {
  const h = Wh![0]!.length;
  let [hidden, cell] = [Array<number>(h).fill(0), Array<number>(h).fill(0)];
  return x.map((row) => {
    const z = affine([row], Wx!, bx![0])[0]!.map((v, k) => v + affine([hidden], Wh!, bh![0])[0]![k]!);
    const [i, f, g, o] = [0, 1, 2, 3].map((n) => z.slice(n * h, (n + 1) * h)) as [number[], number[], number[], number[]];
    cell = cell.map((c, k) => sigmoid(f[k]!) * c + sigmoid(i[k]!) * Math.tanh(g[k]!));
    hidden = cell.map((c, k) => sigmoid(o[k]!) * Math.tanh(c));
    return hidden;
  });
}

test('an LSTM of one unit takes the step computed by hand', async () => {
  const t = (v: number[], ...shape: number[]) => leaf(Float64Array.from(v), shape);
  const y = await engine.read(
    lstm(t([2, -1], 2, 1), [t([0.5, 1, -0.5, 2], 4, 1), t([1, 0.5, 2, -1], 4, 1), t([0, 0, 0, 0], 4), t([0.1, 0.2, 0.3, 0.4], 4)], false),
  );
  const s = sigmoid;
  const c1 = s(1.1) * Math.tanh(-0.7);
  const h1 = s(4.4) * Math.tanh(c1);
  const c2 = s(-0.8 + 0.5 * h1) * c1 + s(-0.4 + h1) * Math.tanh(0.8 + 2 * h1);
  expect(apart(y, [h1, s(-1.6 - h1) * Math.tanh(c2)])).toBeLessThan(1e-14);
});

test('both encoders against plain arithmetic, two bidirectional layers and the linear layers after them', async () => {
  const { base } = gpt2Network(1);
  for (const encoder of ['lstm', 'mlp'] as const) {
    const model = perturb(pTuning({ length: 3, encoder, hidden: 3, layers: 2 })(base), 2);
    const p = await own(engine, model, 'trunk.pTuning');
    const l = (k: number): number[][] => p[`lstm.${k}`]!;
    const side = (x: number[][], k: number): number[][] => steps(x, [l(k), l(k + 1), l(k + 2), l(k + 3)]);
    let x = p.E!;
    for (const k of encoder === 'lstm' ? [0, 8] : []) {
      const [there, back] = [side(x, k), side([...x].reverse(), k + 4).reverse()];
      x = there.map((row, t) => [...row, ...back[t]!]);
    }
    for (let k = 0; p[`W.${k}`] !== undefined; k++) x = affine(k === 0 ? x : each(x, relu), p[`W.${k}`]!, p[`b.${k}`]![0]);
    const stored = await own(engine, await realize(finish(model), engine), 'trunk.pTuning');
    expect(Object.keys(stored)).toEqual(['P']);
    expect(apart(stored.P!.flat(), x.flat())).toBeLessThan(1e-12);
  }
});

test('the stored table answers as the encoder did, and nothing of the encoder is left', async () => {
  const net = gpt2Network(3);
  for (const t of [
    pTuning({ length: 2, hidden: 3, encoder: 'lstm' }),
    pTuningTemplate({ pseudoTokens: [1, 2, 3], encoder: 'mlp', hidden: 2 }),
  ]) {
    const model = perturb(t(net.base), 4);
    const flat = await realize(finish(model), engine);
    expect(trained(flat)).toBe(0);
    expect(apart(await numbersOf(engine, net, flat), await numbersOf(engine, net, model))).toBeLessThan(1e-13);
  }
});

test('pseudo-tokens anywhere in the text have the embeddings the encoder makes, others their own', async () => {
  const { base } = llamaNetwork(5); // an untied head; GPT-2's tied one is in the laws
  const model = perturb(pTuningTemplate({ pseudoTokens: [9, 4], hidden: 2 })(base), 6);
  const ids = [4, 1, 9, 9, 2, 4];
  const P = (await own(engine, await realize(finish(model), engine), 'embed.pTuningTemplate')).P!;
  const table = (await own(engine, base, 'embed')).weight!;
  const got = rowsOf(await engine.read(layerAt(model, 'embedding', 'embed')(leaf(ids, [1, 6]), context(6))), WIDTH);
  expect(
    apart(
      got.flat(),
      ids.flatMap((id) => (id === 9 ? P[0]! : id === 4 ? P[1]! : table[id]!)),
    ),
  ).toBeLessThan(1e-14);
});

test('counts: 28 382 208 for 20 rows of an MLP at the width of Llama-3.2-3B; the LSTM of the authors', () => {
  const site = { dim: () => 3072 } as never;
  expect(pTuning.method.count([site], { length: 20, encoder: 'mlp', hidden: 3072, layers: 2 })).toEqual({
    train: 28_382_208,
    stored: 61_440,
  });
  const [p, d] = [3, 8];
  const layer = (into: number): number => 2 * 4 * (d / 2) * (into + d / 2 + 2);
  const authors = { length: p, encoder: 'lstm', hidden: null, layers: 2 } as const;
  expect(encoderSize(authors, d)).toBe(p * d + 2 * layer(d) + 2 * (d * d + d));
  expect(trained(pTuning(authors)(gpt2Network(1).base))).toBe(encoderSize(authors, d));
  expect(encoded(newEncoder(authors, d, rng(1))).shape).toEqual([p, d]);
});

test('refused: lengths, pseudo-tokens twice or outside the vocabulary', () => {
  const { base } = gpt2Network(1);
  expect(() => pTuning({ length: 16 })(base)).toThrow(/pTuning: length 16 at trunk/);
  expect(() => pTuning({ length: 2, hidden: 0 })(base)).toThrow(/pTuning: hidden .* 0 must be a whole number/);
  expect(() => pTuningTemplate()(base)).toThrow(/at least one token id/);
  expect(() => pTuningTemplate({ pseudoTokens: [3, 3] })(base)).toThrow(/listed twice/);
  expect(() => pTuningTemplate({ pseudoTokens: [11] })(base)).toThrow(/token 11, but the vocabulary/);
});
