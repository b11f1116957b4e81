// 18: the same number of weights, chosen in five ways: where the masks fall, how far they agree, and which of them learns.
import { mkdir, writeFile } from 'node:fs/promises';
import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';
import { columns } from '../core/columns.ts';
import { size } from '../core/shape.ts';
import { type Data, leaf, type Tensor } from '../core/tensor.ts';
import { randomWindows } from '../io/text.ts';
import { context } from '../nn/context.ts';
import { unfreeze } from '../nn/freeze.ts';
import type { Model } from '../nn/layer.ts';
import { nextToken } from '../nn/losses.ts';
import { layers, tensors } from '../nn/tree.ts';
import type { Env, Transform } from '../peft/method.ts';
import { fishMask } from '../peft/selective/fishMask.ts';
import { snip } from '../peft/selective/snip.ts';
import { sparseMask } from '../peft/selective/sparseMask.ts';
import { atHand } from '../peft/site.ts';
import { engineFor } from './engine.ts';
import { ROWS, reader, TOKENS, trained } from './melville.ts';

await using engine = await engineFor('18: where masks fall');
const SPEAKER = 'Theodore Roosevelt';
const STEPS = 200;
const { base, speaker, train, loss } = await reader(engine, [SPEAKER], 18);
const text = speaker(SPEAKER);
const [seen, unseen] = [text.subarray(0, 200_000), text.subarray(200_000)];

/* 1. A budget: 5 % of the numbers in the matrices of the blocks. Each method trains W + S, S zero but at the places of its mask.
 *    Magnitude and random ask nothing of the task and take 5 % of every matrix. FISH and SNIP look at gradients on the task's
 *    text, and let all matrices compete for one budget: (∂L/∂w)² example by example, and |w·∂L/∂w|. */
const DENSITY = 0.05;
const ROLES = ['q', 'k', 'v', 'o', 'gate', 'up', 'down'];
const where = ROLES.map((r) => `${r}.weight`);
const windows = randomWindows(seen, { rows: ROWS, tokens: TOKENS, seed: 1 });
type Text = { readonly ids: Tensor; readonly targets: Tensor };
const asTensors = (k: number): Text => {
  const { ids, targets } = windows(k);
  return { ids: leaf(ids.data, ids.shape), targets: leaf(targets.data, targets.shape) };
};
const env: Env = {
  engine,
  batches: Array.from({ length: 8 }, (_, k) => asTensors(k + 1)),
  loss: (m, b) => nextToken(m, b as typeof b & Text, context(TOKENS)), // these batches are those above
};
const ways: readonly { readonly name: string; readonly method: Transform }[] = [
  { name: 'FISH', method: fishMask({ density: DENSITY, samples: 64, where }) },
  { name: 'SNIP', method: snip({ density: DENSITY, where }) },
  { name: 'largest |W|', method: sparseMask({ density: DENSITY, by: 'largest', where }) },
  { name: 'smallest |W|', method: sparseMask({ density: DENSITY, by: 'smallest', where }) },
  { name: 'random', method: sparseMask({ density: DENSITY, by: 'random', where, seed: 18 }) },
];

/* 2. The masks, and the losses of training them. The learning rate is the best of four for each, on text that the loss below is not of. */
const RATES = [3e-3, 1e-2, 3e-2, 1e-1];
const [validation, test] = [unseen.subarray(0, 10_000), unseen.subarray(10_000)];
interface Result extends Awaited<ReturnType<typeof best>> {
  readonly name: string;
  readonly places: ReadonlyMap<string, ReadonlySet<number>>;
  readonly numbers: number;
}
const results: Result[] = [];
for (const { name, method } of ways) {
  const fresh = (await method.prepare(base, env))(base);
  results.push({ name, places: placesIn(fresh), numbers: trained(fresh), ...(await best(fresh)) });
}
const all = unfreeze(base, (path) => where.some((w) => path.endsWith(`.${w}`)));
const full = await best(all);

/* 3. The table: of every mask the share that fell on each kind of matrix (its share of all numbers in the last line). */
const matrices = [...tensors(base)].filter(({ path }) => where.some((w) => path.endsWith(`.${w}`)));
const total = matrices.reduce((n, { tensor }) => n + size(tensor.shape), 0);
const shareOf = (count: (path: string) => number, whole: number): string[] =>
  ROLES.map(
    (r) =>
      `${((100 * matrices.filter(({ path }) => path.endsWith(`.${r}.weight`)).reduce((n, { path }) => n + count(path), 0)) / whole).toFixed(0)} %`,
  );
console.log(
  columns(
    ['mask', 'numbers', ...ROLES, 'agrees with FISH', 'rate', 'loss'],
    [
      ...results.map((r) => [
        ...[r.name, String(r.numbers), ...shareOf((p) => r.places.get(p)?.size ?? 0, r.numbers)],
        ...[`${(100 * common(r.places, results[0]!.places)).toFixed(0)} %`, String(r.rate), r.loss.toFixed(3)],
      ]),
      [
        'all of them',
        String(trained(all)),
        ...shareOf((p) => size(matrices.find((m) => m.path === p)!.tensor.shape), total),
        '',
        String(full.rate),
        full.loss.toFixed(3),
      ],
    ],
  ),
);

/* 4. What to see in it. */
const ranked = [...results].sort((a, b) => a.loss - b.loss);
const before = await loss(base, test);
console.log(`
Before tuning the loss is ${before.toFixed(3)}. With ${(100 * DENSITY).toFixed(0)} % of the numbers the order is ${ranked.map((r) => r.name).join(', ')}:
${ranked[0]!.name} keeps ${((100 * (before - ranked[0]!.loss)) / (before - full.loss)).toFixed(0)} % of what training all of them gains, ${ranked.at(-1)!.name} ${((100 * (before - ranked.at(-1)!.loss)) / (before - full.loss)).toFixed(0)} %.
Choosing by gradients moves the budget from one kind of matrix to another, and does not always pay: random places are the baseline to beat.
A mask by magnitude agrees with FISH on ${(100 * common(results[2]!.places, results[0]!.places)).toFixed(0)} % of its places, where chance would give ${(100 * DENSITY).toFixed(0)} %: the size of a weight says little of how much the loss feels it.`);

/* 5. The picture: three matrices of the first block, a point where the mask is. FISH takes whole rows and columns: a gradient is an
 *    outer product, large where an input or what comes back to an output is; and what row i of v puts out is what column i of o reads. */
const shown = matrices.filter(({ path }) => path.includes('blocks.0.') && /\.(q|v|o)\.weight$/.test(path));
const points = results.flatMap((r) =>
  shown.flatMap(({ path, tensor }) =>
    [...(r.places.get(path) ?? [])].map((at) => ({
      mask: r.name,
      matrix: path.split('.').at(-2)!,
      row: Math.floor(at / tensor.shape[1]!),
      col: at % tensor.shape[1]!,
    })),
  ),
);
const cells = results.flatMap((r) => ['q', 'v', 'o'].map((matrix) => ({ mask: r.name, matrix })));
const { document } = parseHTML('<!doctype html><html><body></body></html>');
const figure = Plot.plot({
  document,
  ...{ width: 900, height: 580, marginLeft: 40, marginRight: 70, style: { background: 'white', color: '#222', fontSize: '12px' } },
  x: { label: 'input', domain: [-1, 32] },
  y: { label: 'output', domain: [-1, 32], reverse: true },
  fx: { label: null, domain: results.map((r) => r.name) },
  fy: { label: null, domain: ['q', 'v', 'o'] },
  marks: [
    Plot.rect(cells, { x1: -1, x2: 32, y1: -1, y2: 32, fx: 'mask', fy: 'matrix', fill: 'none', stroke: '#ccc' }),
    Plot.dot(points, { x: 'col', y: 'row', fx: 'mask', fy: 'matrix', r: 1.3, fill: '#0072b2' }),
  ],
});
figure.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
const file = 'out/18-where-masks-fall.svg';
await mkdir('out', { recursive: true });
await writeFile(file, `${figure.outerHTML}\n`);
console.log(`\nas a picture: ${file}`);

/** The loss on the test text at the rate that is best on the validation text. */
async function best(fresh: Model): Promise<{ rate: number; loss: number }> {
  const tried: { rate: number; on: number; model: Model }[] = [];
  for (const rate of RATES) {
    const model = await train(fresh, seen, STEPS, rate);
    tried.push({ rate, on: await loss(model, validation), model });
  }
  const { rate, model } = tried.reduce((a, b) => (b.on < a.on ? b : a));
  return { rate, loss: await loss(model, test) };
}
/** Flat positions of a mask, by the path of the weight: columns, and where each row starts among them. */
function placesIn(model: Model): Map<string, Set<number>> {
  const found = new Map<string, Set<number>>();
  for (const { path, layer } of layers(model)) {
    if (layer.kind !== 'weight' || layer.attached === null) continue;
    const { start, col } = layer.fields[layer.attached.field] as { readonly start: Tensor; readonly col: Tensor };
    const width = matrixWidth(path);
    const [s, c] = [start, col].map(atHand) as unknown as readonly [Data, Data]; // frozen numbers, both of them
    const at = new Set<number>();
    for (let row = 0; row + 1 < s.length; row++) for (let k = s[row]!; k < s[row + 1]!; k++) at.add(row * width + c[k]!);
    found.set(path, at);
  }
  return found;
}
function matrixWidth(path: string): number {
  return [...tensors(base)].find((t) => t.path === path)!.tensor.shape[1]!;
}
/** Share of the places of one mask that another one has too. */
function common(a: ReadonlyMap<string, ReadonlySet<number>>, b: ReadonlyMap<string, ReadonlySet<number>>): number {
  let [same, n] = [0, 0];
  for (const [path, at] of a)
    for (const k of at) {
      n++;
      if (b.get(path)?.has(k)) same++;
    }
  return same / n;
}
