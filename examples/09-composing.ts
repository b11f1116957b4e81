// 09: composing methods. They are functions from models to models, so composing them is composing functions, and several of them
//     over one base are several models that share it.
import { argmax } from '../core/ops/reduce.ts';
import { structure } from '../core/plan.ts';
import { rng } from '../core/rng.ts';
import { size } from '../core/shape.ts';
import { input, leaf } from '../core/tensor.ts';
import { context } from '../nn/context.ts';
import { decoder, gpt2 } from '../nn/decoder.ts';
import { freeze } from '../nn/freeze.ts';
import type { Model } from '../nn/layer.ts';
import { nextToken } from '../nn/losses.ts';
import { tensors, trainable } from '../nn/tree.ts';
import { adamw } from '../optim/adamw.ts';
import { trainer } from '../optim/trainer.ts';
import { ia3 } from '../peft/additive/ia3.ts';
import { parallelAdapter } from '../peft/additive/parallelAdapter.ts';
import { prefixTuning } from '../peft/additive/prefixTuning.ts';
import { stack } from '../peft/combinators.ts';
import { hybrid } from '../peft/combine.ts';
import { mam } from '../peft/hybrid/mam.ts';
import type { Transform } from '../peft/method.ts';
import { lora } from '../peft/reparameterized/lora.ts';
import { engineFor } from './engine.ts';

await using engine = await engineFor('09: composing methods');

/* 0. A model to work on: tokens 0 … 11, and it has learned to say the last token again (5 5 5 5 …). Then it is frozen. */
const [V, B, T] = [12, 6, 8];
const born = decoder(gpt2({ vocabulary: V, width: 16, layers: 1, heads: 2, inner: 32, positions: 16, tied: false }), rng(9));
const draws = rng(9).split('texts');
/** A batch of texts in which every token is the one before it plus `step`, modulo V. */
const counting = (step: number) => {
  const rows = Array.from({ length: B }, () => draws.below(V));
  const at = (i: number): number[] => rows.flatMap((start) => Array.from({ length: T }, (_, t) => (start + (t + i) * step + V * T) % V));
  return { ids: { data: at(0), shape: [B, T] }, targets: { data: at(1), shape: [B, T] } };
};
async function train(model: Model, step: number, steps: number): Promise<Model> {
  await using t = await trainer(model, { engine, loss: nextToken, optimizer: adamw({ lr: 1e-2 }) });
  for (let k = 0; k < steps; k++) await t.step(counting(step));
  return t.model();
}
const base = freeze(await train(born, 0, 100));

/* 1. stack(f, g)(model) is g(f(model)): not nearly so, but the same recipe. (The other combinators: 21-a-hybrid-of-your-own.ts.) */
const f = lora({ rank: 2, alpha: 4, where: ['q', 'v'] });
const g = ia3();
const ids = input('ids', [B, T]);
const recipe = (m: Model): string => structure([m({ ids }, context(T))]).key;
console.log(`stack(lora, ia3)(base) and ia3(lora(base)) are one recipe: ${yes(recipe(stack(f, g)(base)) === recipe(g(f(base))))}`);
console.log(`ia3 first, then lora, is another one:                       ${yes(recipe(stack(g, f)(base)) !== recipe(g(f(base))))}\n`);

/* 2. A hybrid method is a composition written in the open. MAM (He et al. 2022, arXiv 2110.04366, §4.6) is a short prefix for
 *    attention and a wide parallel adapter for the feed-forward layer; this is all the code there is to it: */
const mine = ({ length, bottleneck, scale }: { length: number; bottleneck: number; scale: number }): Transform =>
  hybrid('mam', prefixTuning({ length, bottleneck: null }), parallelAdapter({ bottleneck, scale }));
const c = { length: 3, bottleneck: 8, scale: 4 };
const same = recipe(mine(c)(base)) === recipe(mam({ ...c, prefixBottleneck: null })(base));
console.log(
  `MAM is ${mine(c)
    .parts.map((p) => p.method.name)
    .join(' + ')}; the library's own is the same recipe: ${yes(same)}`,
);
for (const [p, path] of trainable(mine(c)(base))) console.log(`  ${String(size(p.shape)).padStart(4)} numbers  ${path}`);

/* 3. Two tasks, one base. `up` counts upwards, `down` downwards: two trees of layers over the same frozen arrays. */
const every = leaf(
  Array.from({ length: V }, (_, i) => i),
  [V, 1],
); // twelve texts of one token each
const untouched = await logitsOf(base); // before anything was trained on top of it
const tune = lora({ rank: 4, alpha: 8, where: ['q', 'v', 'o', 'up', 'down'] });
const up = await train(tune(base), 1, 250);
const down = await train(tune(base), -1, 250);
const frozen = (m: Model): Set<unknown> =>
  new Set([...tensors(m)].flatMap(({ tensor: { source } }) => (source.kind === 'leaf' ? [source.data] : [])));
const [shared, ofUp, ofDown] = [frozen(base), frozen(up), frozen(down)];
console.log(
  `\nfrozen arrays: base ${shared.size}, shared by all three models ${[...shared].filter((d) => ofUp.has(d) && ofDown.has(d)).length}`,
);

console.log('\nloss on           same    up  down   what it says after 0 1 2 3 4 5 6 7 8 9 10 11');
const models: readonly (readonly [string, Model])[] = [
  ['no adapter', base],
  ['adapter up', up],
  ['adapter down', down],
];
for (const [name, m] of models) {
  const losses: string[] = [];
  for (const step of [0, 1, -1]) {
    const { ids, targets } = counting(step);
    const batch = { ids: leaf(ids.data, ids.shape), targets: leaf(targets.data, targets.shape) };
    losses.push((await engine.item(nextToken(m, batch, context(T)))).toFixed(2));
  }
  const says = [...(await engine.read(argmax(m({ ids: every }, context(1)))))]; // [V, 1]
  console.log(`  ${name.padEnd(14)}${losses.map((l) => l.padStart(6)).join('')}   ${says.join(' ')}`);
}

/* 4. Switching is choosing a tree. Nothing is merged into the base, nothing subtracted again, so nothing is lost by rounding. */
const [first, other, again] = [await logitsOf(up), await logitsOf(down), await logitsOf(up)];
console.log(`\nup → down → up: every logit the same bit for bit: ${yes(equal(first, again) && !equal(first, other))}`);
console.log(`and the base, after two trainings on top of it:  ${yes(equal(untouched, await logitsOf(base)))}`);

async function logitsOf(m: Model): Promise<Float64Array> {
  return Float64Array.from(await engine.read(m({ ids: every }, context(1))));
}
function equal(a: Float64Array, b: Float64Array): boolean {
  return a.every((v, i) => Object.is(v, b[i]));
}
function yes(holds: boolean): string {
  return holds ? 'yes' : 'NO';
}
