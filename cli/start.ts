// `npm start`: fine-tunes a pretrained sentence encoder on labelled sentences with a PEFT method, beside a probe of the frozen one.
import { join } from 'node:path';
import { short } from '../core/account.ts';
import { columns } from '../core/columns.ts';
import { type EngineChoice, openEngine } from '../core/open.ts';
import { size } from '../core/shape.ts';
import { saveAdapter } from '../io/adapters.ts';
import { type Encoded, epochs, inLengthOrder } from '../io/batches.ts';
import { type Curve, curves, writeFigure } from '../io/figure.ts';
import { interrupt } from '../io/interrupt.ts';
import { type Example, readAmazon, readLabelled, splitExamples } from '../io/reviews.ts';
import type { TextTokenizer } from '../io/tokenizer.ts';
import { backboneOf } from '../nn/backbone.ts';
import { textClassifier } from '../nn/heads.ts';
import type { Field, Model } from '../nn/layer.ts';
import { tensors } from '../nn/tree.ts';
import { report } from '../peft/report.ts';
import { meanAndInterval } from './interval.ts';
import { prepared } from './recipes.ts';
import { begin, type Flags, finished, HELP, parseFlags, stateOf } from './startFlags.ts';
import { amazonFile, openEncoder, writeTask } from './task.ts';
import { features, type Points, type Probe, probe, type Tuned, tune } from './tuning.ts';

/** Texts are padded to a multiple of this many ids. */
const MULTIPLE = 8;
/** Rows of a batch that is only measured. */
const MEASURED = 32;
/** Of the split: part of the task, the same for every seed of a training. */
const SPLIT = 0;

interface Sides {
  readonly train: readonly Encoded[];
  readonly held: readonly Encoded[];
}
interface Data {
  readonly labels: readonly string[];
  readonly all: readonly Encoded[];
  readonly sides: (seed: number) => Sides;
  readonly described: string;
}
const count = (n: number): string => n.toLocaleString('en-US');

async function readData(f: Flags, tokenizer: TextTokenizer): Promise<Data> {
  const { labels, examples } = f.data === null ? await readAmazon(amazonFile()) : await readLabelled(f.data);
  const split = splitExamples(examples, { held: Math.max(1, Math.floor(examples.length / 5)), seed: SPLIT });
  const known = new Map<Example, Encoded>();
  for (const e of examples) known.set(e, { ids: tokenizer.encode(e.text), label: e.label });
  const encoded = (side: readonly Example[]): Encoded[] => side.map((e) => known.get(e)!);
  const inner = (seed: number): Sides => {
    const s = splitExamples(split.train, { held: Math.max(1, Math.floor(split.train.length / 4)), seed: seed + 1 });
    return { train: encoded(s.train), held: encoded(s.held) };
  };
  const outer = { train: encoded(split.train), held: encoded(split.held) };
  const all = f.validation ? outer.train : [...outer.train, ...outer.held];
  const shown = f.validation ? inner(0) : outer;
  const tokens = all.reduce((n, e) => n + e.ids.length, 0);
  return {
    labels,
    all,
    sides: f.validation ? inner : () => outer,
    described: `${count(shown.train.length)} sentences to train on, ${count(shown.held.length)} kept aside${f.validation ? ' for validation' : ''}; labels ${labels.slice(0, 6).join(', ')}${labels.length > 6 ? ', …' : ''}; ${(tokens / all.length).toFixed(1)} tokens each`,
  };
}

/** One line that grows, or now and then a new one where the output is no terminal. */
function counter(title: string, total: number): (n: number) => void {
  const at = { done: 0, said: Number.NEGATIVE_INFINITY };
  return (n) => {
    at.done += n;
    const now = performance.now();
    if (at.done < total && now - at.said < (process.stderr.isTTY ? 100 : 5000)) return;
    at.said = now;
    process.stderr.write(
      `${process.stderr.isTTY ? '\r' : ''}${title} ${count(at.done)}/${count(total)}${!process.stderr.isTTY || at.done >= total ? '\n' : ''}`,
    );
  };
}

/** What one seed gave. */
interface Outcome {
  readonly probed: Probe;
  readonly tuned: Tuned;
}
const percent = (x: number): string => `${(100 * x).toFixed(1)} %`;
const scalars = (tree: Field): number => [...tensors(tree)].reduce((n, { tensor }) => n + size(tensor.shape), 0);

async function main(f: Flags): Promise<void> {
  const started = performance.now();
  await begin(f);
  using stop = interrupt();
  const { signal } = stop;
  await using engine = await openEngine({ engine: f.engine, mode: f.mode } as EngineChoice);
  const { report: r } = engine;
  console.log(`engine   ${r.engine} (${r.mode})${r.adapter === null ? '' : ` on ${r.adapter}`}: ${r.why}`);
  const encoder = await openEncoder(f.model);
  console.log(`model    ${f.model ?? 'all-MiniLM-L6-v2'}, ${count(scalars(encoder.model))} parameters, frozen`);
  const data = await readData(f, encoder.tokenizer);
  console.log(`data     ${data.described}`);
  const stopped = (when: string): void => {
    process.exitCode = 130;
    const again = process.argv.slice(2).filter((a) => a !== '--resume');
    console.log(`Stopped ${when}. To go on: npm start -- ${[...again, '--resume'].join(' ')}`);
  };

  const began = performance.now();
  const counted = counter('features', data.all.length);
  const known = await features(encoder.model, data.all, { rows: MEASURED, multiple: MULTIPLE }, { engine, signal, onBatch: counted });
  if (known === null) return stopped('while the frozen encoder read the sentences');
  const reading = (performance.now() - began) / 1000;

  const outcomes: Outcome[] = [];
  for (let seed = 0; seed < f.seeds; seed++) {
    const { train, held } = data.sides(seed);
    const probed = await probe(known, { train, held, classes: data.labels.length }, { engine, seed });
    const batches = epochs(train, { rows: f.rows, multiple: MULTIPLE, seed });
    const steps = f.epochs * batches.perEpoch;
    const model = textClassifier(backboneOf(encoder.model), 'mean', null, probed.head);
    const tuned = await tune(await prepared(model, f.recipe, { rank: f.rank, where: f.where, seed, steps }, engine), {
      ...{ engine, signal, seed, steps, lr: f.lr, resume: f.resume },
      ...{ perEpoch: batches.perEpoch, batch: batches.at, held: inLengthOrder(held, { rows: MEASURED, multiple: MULTIPLE }) },
      title: `seed ${seed}  `,
      state: stateOf(f.out, seed),
    });
    if (typeof tuned === 'number') return stopped(`after step ${tuned} of ${steps} of seed ${seed}`);
    const after = tuned.accuracies.map((p) => percent(p.y)).join(', ');
    console.log(`seed ${seed}   probe ${percent(probed.accuracy)}; ${f.method}, after each epoch: ${after}`);
    outcomes.push({ probed, tuned });
  }
  console.log(`\n${table(f, data, encoder.model, outcomes, reading)}\n`);
  await write(f, data, outcomes);
  await finished(f.out);
  console.log(`time     ${((performance.now() - started) / 1000).toFixed(1)} s in all`);
}

function table(f: Flags, data: Data, base: Model, outcomes: readonly Outcome[], reading: number): string {
  const mean = (of: (o: Outcome) => number): number => meanAndInterval(outcomes.map(of)).mean;
  const row = (name: string, trainable: number, bytes: number, seconds: number, speed: number, right: (o: Outcome) => number): string[] => {
    const { mean: m, half } = meanAndInterval(outcomes.map(right));
    return [
      name,
      count(trainable),
      `${((100 * trainable) / scalars(base)).toPrecision(2)} %`,
      seconds.toFixed(1),
      count(Math.round(speed)),
      `${(100 * m).toFixed(1)}${half === null ? '' : ` ± ${(100 * half).toFixed(1)}`} %`,
      short(bytes, 'B'),
    ];
  };
  const head = scalars(outcomes[0]!.probed.head);
  const { total } = report(outcomes[0]!.tuned.model);
  const tokens = data.all.reduce((n, t) => n + t.ids.length, 0);
  const held = data.sides(0).held.length;
  return [
    columns(
      ['method', 'trainable', '% of base', 'seconds', 'tokens/s', `accuracy on ${held}`, 'adapter'],
      [
        row('probe', head, 4 * head, reading + mean((o) => o.probed.seconds), tokens / reading, (o) => o.probed.accuracy),
        row(
          f.method,
          total.trainable,
          total.bytes,
          mean((o) => o.tuned.seconds),
          mean((o) => o.tuned.tokens / o.tuned.seconds),
          (o) => o.tuned.accuracy,
        ),
      ],
    ),
    `seconds: per seed; the probe's are the encoder's one pass over all sentences and its own training. tokens/s without padding.`,
    outcomes.length < 2
      ? `one seed shows no spread; --seeds 3 does`
      : `± 95 % confidence interval of the mean over ${outcomes.length} seeds (heads, adapters, order of batches); one sentence is ${percent(1 / held)}`,
  ].join('\n');
}

const SMOOTH = 10;
/** The mean of each value and the few before it. */
const smooth = (points: Points): Points =>
  points.map(({ x }, k) => ({ x, y: meanAndInterval(points.slice(Math.max(0, k + 1 - SMOOTH), k + 1).map((p) => p.y)).mean }));

/** The first seed's adapter, not the best one: that would be chosen by the sentences kept aside. And the curves. */
async function write(f: Flags, data: Data, outcomes: readonly Outcome[]): Promise<void> {
  const folder = join(f.out, 'adapter');
  const saved = await saveAdapter(outcomes[0]!.tuned.model, folder);
  await writeTask({ model: f.model, labels: data.labels }, folder);
  const figure = join(f.out, 'curve.svg');
  const mean = (of: (o: Outcome) => Points): Points =>
    of(outcomes[0]!).map(({ x }, k) => ({ x, y: meanAndInterval(outcomes.map((o) => of(o)[k]!.y)).mean }));
  const lines: Curve[] = [
    { name: `training loss, last ${SMOOTH} steps`, points: smooth(mean((o) => o.tuned.losses)) },
    {
      name: 'accuracy on those kept aside',
      points: mean(({ probed, tuned }) => [{ x: 0, y: probed.accuracy }, ...tuned.accuracies]),
      dashed: true,
    },
  ];
  await writeFigure(
    figure,
    curves(
      `${f.method} on ${f.data ?? 'Amazon reviews'}, mean of ${outcomes.length} seed${outcomes.length === 1 ? '' : 's'}; step 0 is the probe`,
      { x: 'step', y: 'loss (nats), accuracy' },
      lines,
    ),
  );
  console.log(`wrote    ${saved.file} (${short(saved.bytes, 'B')}), ${figure}`);
  console.log(`use it   npm run classify -- "I love this phone" --adapter ${folder}`);
}

const flags = parseFlags(process.argv.slice(2));
if (flags.help) console.log(HELP);
else await main(flags);
