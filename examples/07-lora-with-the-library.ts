// 07: the same LoRA with the library, and the proof that it is the same: equal recipes, equal numbers, equal training.
import { grad } from '../core/grad.ts';
import { tanh } from '../core/ops/map.ts';
import { type Program, structure } from '../core/plan.ts';
import { rng } from '../core/rng.ts';
import { named } from '../core/scope.ts';
import { leaf, type Param, param, paramOf, stateOf, type Tensor } from '../core/tensor.ts';
import { context } from '../nn/context.ts';
import { layer, type Model } from '../nn/layer.ts';
import { linear } from '../nn/linear.ts';
import { layers, trainable } from '../nn/tree.ts';
import { lora } from '../peft/reparameterized/lora.ts';
import { engineFor } from './engine.ts';

await using engine = await engineFor('07: LoRA with the library');

const [N, IN, HIDDEN, OUT] = [64, 8, 32, 4];
const r = rng(7);
const x = leaf(r.normal(N * IN), [N, IN]);
const y = leaf(r.normal(N * OUT), [N, OUT]);
const up = leaf(r.normal(HIDDEN * IN, 1 / Math.sqrt(IN)), [HIDDEN, IN]); //         two frozen weights
const down = leaf(r.normal(OUT * HIDDEN, 1 / Math.sqrt(HIDDEN)), [OUT, HIDDEN]);
const [rank, alpha, seed] = [2, 4, 11];

/* 1. By hand, as in 06, for a network of two layers with LoRA beside `up`:   h = tanh(W₁x + s·BAx),   ŷ = W₂h.
 *    The only new thing is `named`: it says where a recipe was written down, and a layer of a model does that by itself. */
const random = rng(seed).split('lora').split('up'); // a generator is split by names: method, then place
const A = param(random.uniform(rank * IN, -1 / Math.sqrt(IN), 1 / Math.sqrt(IN)), [rank, IN]);
const B = param(new Float32Array(HIDDEN * rank), [HIDDEN, rank]);
const s = alpha / rank;
const adapted = named('up', () => x.matmul(up.T).add(x.matmul(A.T).matmul(B.T).mul(s))); //            [N, hidden]
const hidden = tanh(adapted);
const byHand = named('down', () => hidden.matmul(down.T)); //                                          [N, out]

/* 2. With the library. A model is a function that shows the layers it calls … */
const base: Model = layer('model', { up: linear(up), down: linear(down) }, (f) => ({ ids: input }, ctx) => {
  const h = f.up(input, ctx);
  return f.down(tanh(h), ctx);
});
/*    … and a configured method is a function from models to models. It finds its place by name, and touches nothing else. */
const model = lora({ rank, alpha, seed, where: 'up' })(base);
const byLibrary = model({ ids: x }, context(N));

const tree = (m: Model): string =>
  [...layers(m)]
    .map(({ path, layer: l }) => (path === '' ? 'model' : path) + (l.attached === null ? '' : ` ← ${l.attached.method}`))
    .join('   ');
console.log('before: ', tree(base));
console.log('after:  ', tree(model), '  (the layer beneath an attachment keeps its path)');
console.log(`trained:  ${[...trainable(model).values()].join(', ')}\n`);

/* 3. One training step of each:  w ← w − η·∂L/∂w,  L = mean (ŷ − y)². */
function descent(output: Tensor, params: readonly Tensor[]): Program<'loss'> {
  const error = output.sub(y);
  const loss = error.mul(error).mean();
  const next = new Map<Param, Tensor>();
  for (const [k, g] of grad(loss, params).entries()) next.set(paramOf(params[k]!)!, params[k]!.sub(g.mul(0.2)));
  return { outputs: { loss }, next };
}
const hand = descent(byHand, [A, B]);
const library = descent(byLibrary, [...trainable(model).keys()].map(stateOf));

/* 4. Equal recipes. `structure` writes a graph down as text: ops, wiring, shapes, places. It also lists the numbers read. */
const written = ({ outputs, next }: Program<'loss'>) => structure([outputs.loss, ...(next ?? new Map<Param, Tensor>()).values()]);
const [one, two] = [written(hand), written(library)];
const sameText = one.key === two.key;
const sameLeaves = one.leaves.length === two.leaves.length && one.leaves.every((data, k) => data === two.leaves[k]);
const sameStart = one.states.every(({ value }, k) => value.every((v, i) => v === two.states[k]!.value[i]));
console.log(`forward, backward and update are ${one.key.split('\n').length} lines of structure`);
console.log(`same structure, line by line: ${yes(sameText)}`);
console.log(`same frozen arrays in memory: ${yes(sameLeaves)}`);
console.log(`same starting values of A, B: ${yes(sameStart)}`);

/* 5. An engine cannot tell them apart either: kernels compiled for the first serve the second. */
const steps = [await engine.compile(engine.store(), hand), await engine.compile(engine.store(), library)] as const;
console.log(`second compile needed nothing new: ${yes(steps[1].report.cached)}\n`);

/* 6. Equal training, to the last bit. */
const differing: number[] = [];
for (let t = 1; t <= 100; t++) {
  const [a, b] = [(await steps[0].run()).loss[0]!, (await steps[1].run()).loss[0]!];
  if (!Object.is(a, b)) differing.push(t);
  if (t === 1 || t % 25 === 0) console.log(`step ${String(t).padStart(3)}: loss by hand ${a.toFixed(6)}, with the library ${b.toFixed(6)}`);
}
console.log(`100 losses equal bit for bit: ${yes(differing.length === 0)}`);

function yes(holds: boolean): string {
  return holds ? 'yes' : 'NO';
}
