// 20: what a hybrid is for: MAM, a short prefix and a wide adapter, against each of them alone with as many numbers.
import { mkdir } from 'node:fs/promises';
import { columns } from '../core/columns.ts';
import { type Curve, curves, writeFigure } from '../io/figure.ts';
import type { Model } from '../nn/layer.ts';
import { parallelAdapter } from '../peft/additive/parallelAdapter.ts';
import { prefixTuning } from '../peft/additive/prefixTuning.ts';
import { stack } from '../peft/combinators.ts';
import type { Transform } from '../peft/method.ts';
import { engineFor } from './engine.ts';
import { reader, trained } from './melville.ts';

await using engine = await engineFor('20: MAM and its parts');
const SPEAKER = 'Theodore Roosevelt';
const [STEPS, RATES, SEEDS] = [150, [5e-3, 2e-2, 8e-2, 0.3], [20, 21]];
const { base, speaker, train, loss } = await reader(engine, [SPEAKER], 20);
const text = speaker(SPEAKER);
const [seen, validation, test] = [text.subarray(0, 200_000), text.subarray(200_000, 210_000), text.subarray(210_000)];

/* 1. A key and a value of width 32 for each position of a prefix, in two blocks: 128 numbers a position. An adapter beside the
 *    feed-forward layer, h + s·W_up σ(W_down x): 130 for each unit of its bottleneck and 64 biases. So equal budgets are easy to hit.
 *    MAM (He et al. 2022) gives most of it to the feed-forward layer. */
const prefix = (length: number, seed: number): Transform => prefixTuning({ length, bottleneck: null, seed });
const adapter = (bottleneck: number, seed: number): Transform => parallelAdapter({ bottleneck, scale: 4, seed });
const BUDGETS = [
  { prefix: 5, adapter: 4, mam: [1, 4] },
  { prefix: 10, adapter: 9, mam: [2, 8] },
  { prefix: 20, adapter: 18, mam: [4, 15] },
] as const;
const kinds: readonly { readonly name: string; readonly make: (b: (typeof BUDGETS)[number], seed: number) => Transform }[] = [
  { name: 'prefix alone', make: (b, seed) => prefix(b.prefix, seed) },
  { name: 'adapter alone', make: (b, seed) => adapter(b.adapter, seed) },
  { name: 'MAM: both', make: (b, seed) => stack(prefix(b.mam[0], seed), adapter(b.mam[1], seed)) },
];

/* 2. Each at the best of four learning rates, chosen on a part of the text that the results are not of; two seeds. */
interface Result {
  readonly name: string;
  readonly numbers: number;
  readonly losses: readonly number[];
}
const results: Result[][] = [];
for (const budget of BUDGETS) {
  const row: Result[] = [];
  for (const { name, make } of kinds) {
    const losses: number[] = [];
    for (const seed of SEEDS) losses.push(await best(make(budget, seed)(base), seed));
    row.push({ name, numbers: trained(make(budget, 0)(base)), losses });
  }
  results.push(row);
}

const mean = (v: readonly number[]): number => v.reduce((a, b) => a + b) / v.length;
const before = await loss(base, test);
console.log(`Loss on unseen letters of ${SPEAKER}: ${before.toFixed(3)} before tuning. Mean of two seeds, and half of their distance.\n`);
console.log(
  columns(
    kinds.flatMap(({ name }) => ['numbers', name]),
    results.map((row) =>
      row.flatMap(({ numbers, losses: [a, b] }) => [
        String(numbers),
        `${mean([a!, b!]).toFixed(3)} ± ${(Math.abs(a! - b!) / 2).toFixed(3)}`,
      ]),
    ),
  ),
);

/* 3. What to see in it. */
const winners = results.map((row) => row.reduce((a, b) => (mean(b.losses) < mean(a.losses) ? b : a)).name);
const [p, a] = [results.at(-1)![0]!, results.at(-1)![1]!];
console.log(`
Lowest at the three budgets: ${winners.join('; ')}. With ${p.numbers} numbers the prefix gains ${(before - mean(p.losses)).toFixed(3)}, the adapter with ${a.numbers} ${(before - mean(a.losses)).toFixed(3)}:
a prefix only adds to what attention may look at, an adapter changes what every token computes. What the table decides is whether
giving a part of the adapter's numbers to a prefix pays, here and with this text; differences within the ± decide nothing.`);

const lines: Curve[] = kinds.map(({ name }, k) => ({
  name,
  points: results.map((row) => ({ x: row[k]!.numbers, y: mean(row[k]!.losses) })),
}));
const file = 'out/20-mam-and-its-parts.svg';
await mkdir('out', { recursive: true });
await writeFigure(file, curves(`${SPEAKER}, ${STEPS} steps`, { x: 'numbers trained', y: 'loss on unseen letters (nats)' }, lines));
console.log(`as a picture: ${file}`);

async function best(fresh: Model, seed: number): Promise<number> {
  const tried: { on: number; model: Model }[] = [];
  for (const rate of RATES) {
    const model = await train(fresh, seen, STEPS, rate, seed);
    tried.push({ on: await loss(model, validation), model });
  }
  return loss(tried.reduce((x, y) => (y.on < x.on ? y : x)).model, test);
}
