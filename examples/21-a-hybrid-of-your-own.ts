// 21: a hybrid that no paper has, written with combinators: what it is, what it starts as, what it learns, and what its decisions are worth.
import { mkdir } from 'node:fs/promises';
import { columns } from '../core/columns.ts';
import { leaf } from '../core/tensor.ts';
import { scatter, writeFigure } from '../io/figure.ts';
import { context } from '../nn/context.ts';
import { withValues } from '../nn/freeze.ts';
import type { Model } from '../nn/layer.ts';
import { params, trainable } from '../nn/tree.ts';
import { ia3 } from '../peft/additive/ia3.ts';
import { parallelAdapter } from '../peft/additive/parallelAdapter.ts';
import { pfeiffer } from '../peft/additive/pfeiffer.ts';
import { average, fuse, gate, mask, parallel, route, stack } from '../peft/combinators.ts';
import type { Transform } from '../peft/method.ts';
import { lora } from '../peft/reparameterized/lora.ts';
import { engineFor } from './engine.ts';
import { reader, TOKENS, trained } from './melville.ts';

await using engine = await engineFor('21: a hybrid of your own');
const SPEAKER = 'Abraham Lincoln';
const [STEPS, RATES] = [200, [5e-3, 2e-2]];
const { base, melville, speaker, train, loss } = await reader(engine, [SPEAKER], 21);
const text = speaker(SPEAKER);
const [seen, validation, test] = [text.subarray(0, 120_000), text.subarray(120_000, 130_000), text.subarray(130_000)];

/* 1. The words. A combinator takes methods and is a method: y is what a place computed, y_i what it computes with method i.
 *      stack      one after the other             parallel   y + Σ (y_i − y)       average   Σ w_i y_i
 *      gate       y + σ(w·x + b)(y_1 − y)         route      Σ softmax(R x)_i y_i  fuse      attention over y_i − y
 *      mask       y + m ⊙ (y_1 − y)
 *    The sentence: in attention a LoRA and an (IA)³ side by side, and a gate that opens for the tokens that need them; around the
 *    feed-forward layer two adapters, one that reads its answer and one that reads its input, and a router that picks for every token;
 *    the LoRA of the last matrix may write to half of the features only. */
const low = (where: string | string[]): Transform => lora({ rank: 2, alpha: 4, where, seed: 21 });
const scales = ia3({ where: ['k', 'v'] });
const after = pfeiffer({ bottleneck: 4, activation: 'silu', where: 'mlp', seed: 21 });
const beside = parallelAdapter({ bottleneck: 4, scale: 4, where: 'mlp', seed: 21 });
const attention = gate(parallel(low(['q', 'v']), scales));
const mine = stack(attention, mask(low('o'), 0.5, 21), route([after, beside]));

/* 2. What it is: a method like any other. It trains its parts and its decisions, and starts as the base but for what its members
 *    start as. */
const fresh = mine(base);
const ids = leaf(melville.subarray(0, 4 * TOKENS), [4, TOKENS]);
const logits = async (m: Model): Promise<Float64Array> => Float64Array.from(await engine.read(m({ ids }, context(TOKENS))));
const [plain, start] = [await logits(base), await logits(fresh)];
console.log(`It is ${mine.title},\n${mine.parts.length} parts, ${trainable(fresh).size} trained tensors of ${trained(fresh)} numbers.`);
console.log(
  `Fresh, its logits differ from the base's by at most ${plain.reduce((m, v, k) => Math.max(m, Math.abs(v - start[k]!)), 0).toExponential(1)}.\n`,
);

/* 3. Against its parts, and against the same members under other rules, each at the better of two rates. */
const contestants: readonly { readonly name: string; readonly group: string; readonly method: Transform }[] = [
  { name: 'LoRA on q, v, o', group: 'a part', method: low(['q', 'v', 'o']) },
  { name: '(IA)³ on k, v', group: 'a part', method: scales },
  { name: 'adapter after', group: 'a part', method: after },
  { name: 'adapter beside', group: 'a part', method: beside },
  { name: 'all parts stacked', group: 'another rule', method: stack(low(['q', 'v', 'o']), scales, after, beside) },
  { name: 'average for route', group: 'another rule', method: stack(attention, mask(low('o'), 0.5, 21), average([after, beside])) },
  {
    name: 'fuse for route',
    group: 'another rule',
    method: stack(attention, mask(low('o'), 0.5, 21), fuse([after, beside], { value: false })),
  },
  { name: 'mine', group: 'the hybrid', method: mine },
];
const results: { name: string; group: string; numbers: number; loss: number; model: Model }[] = [];
for (const { name, group, method } of contestants) {
  const made = method(base);
  const tried: { on: number; model: Model }[] = [];
  for (const rate of RATES) {
    const model = await train(made, seen, STEPS, rate);
    tried.push({ on: await loss(model, validation), model });
  }
  const { model } = tried.reduce((a, b) => (b.on < a.on ? b : a));
  results.push({ name, group, numbers: trained(made), loss: await loss(model, test), model });
}
const before = await loss(base, test);
console.log(`Loss on unseen letters of ${SPEAKER}: ${before.toFixed(3)} before.`);
console.log(
  columns(
    ['method', '', 'numbers', 'loss'],
    results.map((r) => [r.name, r.group, String(r.numbers), r.loss.toFixed(3)]),
  ),
);

/* 4. What are its decisions worth? The same trained model with the gates held shut, open or at ½, and with the routers undecided. */
const tuned = results.at(-1)!.model;
const held = (change: (path: string, v: Float32Array) => Float32Array | null): Model =>
  withValues(
    tuned,
    new Map(
      [...params(tuned)].flatMap(([p, path]) => {
        const v = change(path, Float32Array.from(p.value));
        return v === null ? [] : [[p, v] as const];
      }),
    ),
  );
const gates =
  (b: number) =>
  (path: string, v: Float32Array): Float32Array | null =>
    /\.attn\..*rule\.\d$/.test(path) && !path.includes('.o.') ? (path.endsWith('rule.1') ? v.fill(b) : v.fill(0)) : null;
const cases: readonly (readonly [string, Model])[] = [
  ['as trained', tuned],
  ['gates shut', held(gates(-1e4))],
  ['open', held(gates(1e4))],
  ['undecided (½)', held(gates(0))],
  ['routers undecided', held((path, v) => (/\.mlp\..*rule\.0$/.test(path) ? v.fill(0) : null))],
];
const worth: number[] = [];
for (const [, m] of cases) worth.push(await loss(m, test));
console.log(`\n${cases.map(([name], k) => `${name} ${worth[k]!.toFixed(3)}`).join('   ')}`);

const parts = results.filter((r) => r.group === 'a part');
const lowest = results.reduce((a, b) => (b.loss < a.loss ? b : a));
const tied = results.filter((r) => r.group === 'another rule' && Math.abs(r.loss - results.at(-1)!.loss) < 0.003).map((r) => r.name);
console.log(`
The hybrid is below each of its parts by ${(Math.min(...parts.map((r) => r.loss)) - results.at(-1)!.loss).toFixed(3)} or more; lowest of all is ${lowest.name}.
${tied.length === 0 ? 'No other rule for the same members comes within 0.003.' : `Within 0.003 of it: ${tied.join(', ')}: there the rule matters less than the members.`}
Deciding token by token is worth ${(worth[3]! - worth[0]!).toFixed(3)} in the gates and ${(worth[4]! - worth[0]!).toFixed(3)} in the routers; what the gated methods do at all, ${(worth[1]! - worth[0]!).toFixed(3)}.`);

const file = 'out/21-a-hybrid-of-your-own.svg';
await mkdir('out', { recursive: true });
await writeFigure(
  file,
  scatter(
    `${SPEAKER}, ${STEPS} steps`,
    { x: 'numbers trained', y: 'loss on unseen letters (nats)' },
    results.map((r) => ({ name: r.name, group: r.group, x: r.numbers, y: r.loss, spread: 0, first: r.name === 'mine' })),
    { y: before, name: 'the base' },
  ),
);
console.log(`as a picture: ${file}`);
