// 03: an MLP learns two spirals, with Adam and the training loop written by hand. You can watch the boundary curl up.
import { grad } from '../core/grad.ts';
import { sigmoid, softplus, sqrt, tanh } from '../core/ops/map.ts';
import { rng } from '../core/rng.ts';
import { input, leaf, type Param, param, paramOf, type Tensor } from '../core/tensor.ts';
import { engineFor } from './engine.ts';

await using engine = await engineFor('03: an MLP learns two spirals');

/* 1. The data: two arms of 80 points, one turned by half a circle against the other. N = 160. */

const r = rng(1);
const PER_ARM = 80;
const N = 2 * PER_ARM;
const points = Array.from({ length: N }, (_, i) => {
  const arm = i % 2;
  const t = (i / N) * 3 * Math.PI; // one and a half turns
  const [radius, angle, noise] = [0.1 + t / 10, t + arm * Math.PI, r.normal(2, 0.02)];
  return { x: radius * Math.cos(angle) + noise[0]!, y: radius * Math.sin(angle) + noise[1]!, arm };
});
const coordinates = points.flatMap(({ x, y }) => [x, y]);
const arms = points.map(({ arm }) => arm);
const data = leaf(coordinates, [N, 2]);
const labels = leaf(arms, [N, 1]);

/* 2. The model: x → 32 → 32 → 1 with tanh between. A layer is y = x·W + b; a parameter is a tensor that training may change. */

const dense = (from: number, to: number, gain: number) => ({
  W: param(r.normal(from * to, gain / Math.sqrt(from)), [from, to]),
  b: param(r.normal(to, 0.5), [to]),
});
const layers = [dense(2, 32, 3), dense(32, 32, 1), dense(32, 1, 1)];
const mlp = (x: Tensor): Tensor =>
  layers.reduce((h, { W, b }, k) => {
    const y = h.matmul(W).add(b); //                         [n, from] → [n, to]
    return k === layers.length - 1 ? y : tanh(y);
  }, x);

/* 3. The loss: binary cross-entropy from logits z,  L = mean( log(1 + eᶻ) − z·t ). */

const z = mlp(data); //                                       [N, 1]
const loss = softplus(z).sub(z.mul(labels)).mean();

/* 4. Adam (Kingma & Ba 2014). A step is no loop over numbers: it says, as recipes, what the next value of everything is.
 *      m ← β₁m + (1 − β₁)g        v ← β₂v + (1 − β₂)g²        w ← w − η·√(1 − β₂ᵗ)/(1 − β₁ᵗ) · m/(√v + ε)
 *    m and v are state like w: parameters too, only not trained (active: false). What changes from step to step is an input. */

const weights = layers.flatMap(({ W, b }) => [W, b]);
const rate = input('rate', []); //                            η·√(1 − β₂ᵗ)/(1 − β₁ᵗ), fed on every step
const [beta1, beta2, eps] = [0.9, 0.99, 1e-8];
const next = new Map<Param, Tensor>();
for (const [k, g] of grad(loss, weights).entries()) {
  const w = weights[k]!;
  const [m, v] = [zerosLike(w), zerosLike(w)];
  const m2 = m.mul(beta1).add(g.mul(1 - beta1));
  const v2 = v.mul(beta2).add(g.mul(g).mul(1 - beta2));
  next.set(paramOf(m)!, m2).set(paramOf(v)!, v2);
  next.set(paramOf(w)!, w.sub(m2.div(sqrt(v2).add(eps)).mul(rate)));
}
function zerosLike(w: Tensor): Tensor {
  return param(new Float32Array(w.shape[0]! * (w.shape[1] ?? 1)), w.shape, { active: false });
}

/* 5. Two plans over one store. The store holds the state, so what `step` changes is what `look` sees. */

const WIDE = 56;
const HIGH = 26;
const middle = (i: number, n: number): number => ((i + 0.5) / n) * 2.4 - 1.2; // of cell i of n, in −1.2 … 1.2
const cells = Array.from({ length: WIDE * HIGH }, (_, i) => [middle(i % WIDE, WIDE), -middle(Math.floor(i / WIDE), HIGH)]);
const grid = leaf(cells.flat(), [WIDE * HIGH, 2]);
const store = engine.store();
const step = await engine.compile(store, { outputs: { loss }, next });
const look = await engine.compile(store, { outputs: { p: sigmoid(mlp(grid)), z } });
console.log(`one step is ${step.report.kernels} kernels, forward, backward and Adam together`);

/* 6. The loop. */

const STEPS = 300;
for (let t = 1; t <= STEPS; t++) {
  const eta = 0.02 * (1 - t / STEPS);
  const got = await step.run({ rate: (eta * Math.sqrt(1 - beta2 ** t)) / (1 - beta1 ** t) });
  if (t === 1 || t === 40 || t === STEPS) await show(t, got.loss[0]!);
}

/** The plane as the network sees it: shaded where it says arm 1; `o` and `x` are the points of arm 0 and arm 1. */
async function show(t: number, now: number): Promise<void> {
  const { p, z } = await look.run();
  const shade = (probability: number): string => ' ░▒▓'[Math.min(3, Math.floor(4 * probability))]!;
  const picture = Array.from({ length: HIGH }, (_, y) => [...p.slice(y * WIDE, (y + 1) * WIDE)].map(shade));
  const cell = (v: number, n: number): number => Math.floor(((v + 1.2) / 2.4) * n);
  for (const { x, y, arm } of points) picture[cell(-y, HIGH)]![cell(x, WIDE)] = 'ox'[arm]!;
  const right = points.filter(({ arm }, i) => z[i]! > 0 === (arm === 1)).length;
  console.log(`\nafter step ${t}: loss ${now.toFixed(4)}, ${right} of ${N} points on the right side`);
  console.log(picture.map((row) => row.join('')).join('\n'));
}
