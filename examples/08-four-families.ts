// 08: four families of methods on one frozen model: what each trains, what it makes the machine remember, and what it costs.
import { mkdir, writeFile } from 'node:fs/promises';
import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';
import { short } from '../core/account.ts';
import { columns } from '../core/columns.ts';
import { rng } from '../core/rng.ts';
import { leaf } from '../core/tensor.ts';
import { context } from '../nn/context.ts';
import { decoder, gpt2 } from '../nn/decoder.ts';
import { freeze, unfreeze } from '../nn/freeze.ts';
import type { Model } from '../nn/layer.ts';
import { nextToken } from '../nn/losses.ts';
import { adamw } from '../optim/adamw.ts';
import { trainer } from '../optim/trainer.ts';
import { houlsby } from '../peft/additive/houlsby.ts';
import { mam } from '../peft/hybrid/mam.ts';
import { lora } from '../peft/reparameterized/lora.ts';
import { type Report, report } from '../peft/report.ts';
import { bitfit } from '../peft/selective/bitfit.ts';
import { engineFor } from './engine.ts';

await using engine = await engineFor('08: four families on one frozen model');

/* 1. The model: a GPT-2 of four blocks, frozen, and a batch of 4 texts of 32 tokens. What it says does not matter here. */
const [V, B, T] = [64, 4, 32];
const base = freeze(decoder(gpt2({ vocabulary: V, width: 32, layers: 4, heads: 4, positions: T + 4 }), rng(8)));
const draw = rng(8).split('text');
const text = { data: Array.from({ length: B * T }, () => draw.below(V)), shape: [B, T] };
const targets = { data: Array.from({ length: B * T }, () => draw.below(V)), shape: [B, T] };

/* 2. The contestants. Every one is a function from models to models; unfreezing everything is the one to compare with. */
const contestants: readonly { name: string; family: string; idea: string; tune: (m: Model) => Model }[] = [
  { name: 'full fine-tuning', family: '(none)', idea: 'everything', tune: (m) => unfreeze(m, () => true) },
  { name: 'houlsby', family: 'additive', idea: 'new layers in between', tune: houlsby({ bottleneck: 4 }) },
  { name: 'bitfit', family: 'selective', idea: 'some of what is there', tune: bitfit() },
  { name: 'lora', family: 'reparameterized', idea: 'a thin change of a weight', tune: lora({ rank: 4, alpha: 8, where: ['q', 'v'] }) },
  { name: 'mam', family: 'hybrid', idea: 'a prefix and an adapter', tune: mam({ length: 4, prefixBottleneck: null, bottleneck: 8 }) },
  {
    name: 'lora, last block',
    family: 'reparameterized',
    idea: 'the same, but only at the top',
    tune: lora({ rank: 4, alpha: 8, where: /blocks\.3\.attn\.[qv]$/ }),
  },
];

/* 3. Counting. `report` looks at the training step as a recipe and runs nothing: forward values that some backward kernel reads
 *    have to be kept; operations are summed over kernels. Only the last column is a stopwatch, and it says little for a model
 *    as small as this one. */
const loss = (m: Model) => nextToken(m, { ids: leaf(text.data, text.shape), targets: leaf(targets.data, targets.shape) }, context(T));
const optimizer = adamw();
const results: { name: string; r: Report; step: NonNullable<Report['step']> }[] = [];
const rows: string[][] = [];
for (const { name, family, idea, tune } of contestants) {
  const model = tune(base);
  const r = report(model, { optimizer, loss });
  const step = r.step!;
  results.push({ name, r, step });
  const { forward, backward } = step.flops;
  const milliseconds = await stopwatch(model);
  rows.push([
    name,
    family,
    idea,
    String(r.total.trainable),
    `${(100 * r.total.ofBase).toFixed(2)} %`,
    short(r.optimizer!.bytes, 'B'),
    short(step.saved, 'B'),
    short(forward, 'FLOP'),
    short(backward, 'FLOP'),
    `${milliseconds.toFixed(1)} ms`,
  ]);
}
console.log(columns(['method', 'family', 'trains', 'numbers', 'of base', 'optimizer', 'kept', 'forward', 'backward', 'one step'], rows));

/** Middle of ten steps, after two that compile and warm up. */
async function stopwatch(model: Model): Promise<number> {
  await using t = await trainer(model, { engine, loss: nextToken, optimizer });
  const times: number[] = [];
  for (let k = 0; k < 12; k++) {
    const start = performance.now();
    await t.step({ ids: text, targets });
    times.push(performance.now() - start);
  }
  return times.slice(2).sort((a, b) => a - b)[5]!;
}

/* 4. What to see in it. */
const [full, , , thin, , top] = results.map(({ step }) => step) as [Report['step'], ...Report['step'][]];
const percent = (part: number, whole: number): string => `${((100 * part) / whole).toFixed(0)} %`;
console.log(`
The optimizer's memory falls with the numbers trained: that is what every family saves.
What is kept for backward hardly does: lora on all blocks keeps ${percent(thin!.saved, full!.saved)} of what full fine-tuning keeps, because the error has to
travel down through every frozen layer above the lowest adapter, and the nonlinear ones need their values for that.
Backward saves the products for weight gradients, about half of it: lora computes ${percent(thin!.flops.backward, full!.flops.backward)} of them all.
Only where you attach changes the rest: in the last block alone, ${percent(top!.saved, full!.saved)} is kept and ${percent(top!.flops.backward, full!.flops.backward)} of backward is left.`);

/* 5. The same as a picture: each quantity as a share of full fine-tuning. */
const { document } = parseHTML('<!doctype html><html><body></body></html>');
const shares = results.flatMap(({ name, r, step }) => {
  const [whole, wholeStep] = [results[0]!.r, results[0]!.step];
  return [
    { name, what: 'optimizer memory', share: r.optimizer!.bytes / whole.optimizer!.bytes },
    { name, what: 'kept for backward', share: step.saved / wholeStep.saved },
    { name, what: 'backward FLOP', share: step.flops.backward / wholeStep.flops.backward },
  ];
});
const figure = Plot.plot({
  document,
  width: 720,
  height: 420,
  marginLeft: 110,
  marginRight: 120,
  marginBottom: 44,
  style: { background: 'white', color: '#222', fontSize: '12px' },
  x: { label: 'share of full fine-tuning (%)', labelAnchor: 'center', labelArrow: 'none', percent: true, grid: true },
  y: { label: null, domain: contestants.map((c) => c.name) },
  fy: { label: null, domain: ['optimizer memory', 'kept for backward', 'backward FLOP'] },
  marks: [
    Plot.barX(shares, { x: 'share', y: 'name', fy: 'what', fill: '#56b4e9' }),
    Plot.text(shares, {
      x: 'share',
      y: 'name',
      fy: 'what',
      text: (d: { share: number }) => percent(d.share, 1),
      textAnchor: 'start',
      dx: 4,
    }),
    Plot.ruleX([0]),
  ],
});
figure.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
await mkdir('out', { recursive: true });
await writeFile('out/08-four-families.svg', `${figure.outerHTML}\n`);
console.log('\nas a picture: out/08-four-families.svg');
