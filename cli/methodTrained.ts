// The outcome of training every method side by side: its records, the table, the page, the figure.
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { short } from '../core/account.ts';
import { columns } from '../core/columns.ts';
import { scatter } from '../io/figure.ts';
import { meanAndDeviation } from './interval.ts';
import { COMPOSABLE, type Composable } from './methodComposes.ts';

export interface Settings {
  readonly steps: number;
  readonly seeds: number;
  readonly pretraining: number;
  readonly rates: readonly number[];
}
/** One method. Losses are in nats per hidden letter, on text of its own, one for each seed. */
export interface Entry {
  readonly name: string;
  readonly family: string;
  readonly place: readonly string[];
  readonly mergeable: boolean;
  readonly composable: Composable;
  readonly trainable: number;
  readonly optimizer: number; // bytes
  readonly saved: number; // bytes kept from forward to backward
  readonly flops: number; // of one step
  readonly adjusted: string | null;
  readonly rate: number;
  readonly losses: readonly number[];
  readonly seconds: number; // all its trainings
  readonly cpuSeconds: number;
}
export interface Outcome {
  readonly settings: Settings;
  readonly task: string;
  readonly engine: string;
  readonly minutes: number;
  readonly base: { readonly scalars: number; readonly loss: number };
  readonly loraFlops: number;
  readonly entries: readonly Entry[];
}

/** What is not as in the paper, because it happens before or after what is timed here. */
const REMARKS: Readonly<Record<string, string>> = {
  adapterFusion: 'the two adapters that it fuses are fresh, not trained on tasks',
  deltaLora: 'its weight moves only after 500 steps: here it is LoRA',
  far: 'takes as many steps more, before, to choose what is trained',
  ipt: 'its decoder is random, not learned from prompts of many tasks',
  loraDrop: 'all layers share, because no importance was measured before',
  ltSft: 'takes as many steps more, before, to choose what is trained',
  mpt: 'one task, no teachers',
  ptp: 'trained with the loss as it is: prompt tuning',
  spot: 'no source prompt: prompt tuning with 100 tokens',
  tpt: 'the prompt that it projects is random, not of another network',
  xprompt: 'not pruned: prompt tuning',
};

const cells = (o: Outcome, e: Entry): string[] => {
  const { mean, deviation } = meanAndDeviation(e.losses);
  return [
    e.name,
    e.family,
    e.place.join(', '),
    e.trainable.toLocaleString('en-US'),
    `${((100 * e.trainable) / o.base.scalars).toPrecision(3)} %`,
    short(e.optimizer, 'B'),
    short(e.saved, 'B'),
    (e.flops / o.loraFlops).toFixed(2),
    String(e.rate),
    `${mean.toFixed(3)}${deviation === null ? '' : ` ± ${deviation.toFixed(3)}`}`,
    e.mergeable ? 'yes' : 'no',
    COMPOSABLE[e.composable],
  ];
};
const HEADING = [
  'method',
  'family',
  'place',
  'trainable',
  '% of base',
  'optimizer',
  'kept for backward',
  'FLOP / LoRA',
  'rate',
  'loss',
  'merges',
  'composable',
];
const sorted = (o: Outcome): Entry[] => [...o.entries].sort((a, b) => meanAndDeviation(a.losses).mean - meanAndDeviation(b.losses).mean);

function explained({ settings: s, task, engine, minutes, base }: Outcome): string[] {
  return [
    `Task: ${task}. The base has ${base.scalars.toLocaleString('en-US')} scalars and a loss of ${base.loss.toFixed(3)} nats per hidden letter on the test part.`,
    `Every method has its defaults (exceptions below) and ${s.steps} steps of AdamW, warmed up and annealed by a cosine, gradients clipped to norm 1. Its learning rate is the one of ${s.rates.join(', ')} with the lowest loss on a validation part after a training with seed 0; the same rule for all. Loss: on the test part, which no choice looked at${s.seeds > 1 ? `, mean ± standard deviation of ${s.seeds} seeds (initialisation, order of data)` : ', one seed'}.`,
    `Optimizer bytes, bytes kept from forward to backward and FLOP are counted from the program of one step, not measured. Composable: whether it can be put on top of another method. Engine: ${engine}; all of it took ${minutes.toFixed(1)} minutes.`,
    'A small network, few steps and one task: differences say how methods behave here, not which is best. Methods made for long training, large networks, many tasks or long texts have nothing to show in it.',
  ];
}
function remarks(o: Outcome): string[] {
  return o.entries.flatMap((e) => {
    const all = [e.adjusted, REMARKS[e.name]].filter((r) => r != null);
    return all.length === 0 ? [] : [`${e.name}: ${all.join('; ')}`];
  });
}

/** For a terminal. */
export const formatTrained = (o: Outcome): string =>
  [
    columns(
      HEADING,
      sorted(o).map((e) => cells(o, e)),
    ),
    '',
    ...explained(o),
    ...remarks(o),
  ].join('\n');

/** As a page. */
export function trainedPage(o: Outcome): string {
  const row = (c: readonly string[]): string => `| ${c.join(' | ')} |`;
  return [
    '# Every method on one task',
    '',
    '<!-- written by `npm run methods -- --train`; not edited by hand -->',
    '',
    ...explained(o).flatMap((p) => [p, '']),
    'The [programs](methods.md#programs) have no rows: a row is one training of one attachment, and they are of several stages or several models, ways to train any method, or LoRA on a packed base, which [has a table of its own](qlora.md).',
    '',
    '![loss against trained scalars](methods-trained.svg)',
    '',
    row(HEADING),
    row(HEADING.map((_, k) => (k >= 3 && k <= 9 ? '--:' : '---'))),
    ...sorted(o).map((e) => row(cells(o, e).map((c, k) => (k === 0 && e.place.length > 0 ? `[${c}](methods/${pageName(c)})` : c)))),
    '',
    ...(remarks(o).length === 0 ? [] : ['Not as in the paper:', '', ...remarks(o).map((r) => `* ${r}`), '']),
  ].join('\n');
}
export const pageName = (method: string): string => `${method.replace('++', 'PlusPlus')}.md`;

/** Points far above the base are drawn at the upper end, with their loss in their name. */
export function trainedFigure(o: Outcome): string {
  const points = o.entries.map((e) => ({ e, ...meanAndDeviation(e.losses) }));
  const lowest = Math.min(...points.map((p) => p.mean));
  const top = o.base.loss + 0.25 * Math.max(o.base.loss - lowest, 0);
  return scatter(
    `Loss after ${o.settings.steps} steps against trained scalars`,
    { x: 'trained scalars', y: 'loss (nats per hidden letter)' },
    points.map(({ e, mean, deviation }) => ({
      name: mean > top ? `${e.name} (${mean.toFixed(2)}, above)` : e.name,
      group: e.family === '—' ? 'all weights' : e.family,
      x: e.trainable,
      first: e.family === '—' || e.name === 'lora',
      y: Math.min(mean, top),
      spread: mean > top ? 0 : (deviation ?? 0),
    })),
    { y: o.base.loss, name: 'the base' },
  );
}

/** Page, records and figure into a folder; the names of the files. */
export async function writeTrained(o: Outcome, folder: string): Promise<string[]> {
  const files = { md: trainedPage(o), json: `${JSON.stringify(o, null, 1)}\n`, svg: trainedFigure(o) };
  const names: string[] = [];
  for (const [ending, text] of Object.entries(files)) {
    names.push(join(folder, `methods-trained.${ending}`));
    await writeFile(names.at(-1)!, text);
  }
  return names;
}

/** The outcome that the pages quote; null before it was first written. */
export function readTrained(): Outcome | null {
  try {
    return JSON.parse(readFileSync(fileURLToPath(new URL('../docs/methods-trained.json', import.meta.url)), 'utf8')) as Outcome;
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw e;
  }
}
