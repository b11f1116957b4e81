// 06: LoRA by hand, from the core alone: a frozen matrix, two thin ones beside it, and what changes because of that.
//     y = W x + s·B A x,   W ∈ ℝ^{out×in} frozen,   A ∈ ℝ^{r×in} and B ∈ ℝ^{out×r} trained,   s = α/r
// Hu et al. 2021, arXiv 2106.09685, §4.1.
import { grad } from '../core/grad.ts';
import { rng } from '../core/rng.ts';
import { show } from '../core/shape.ts';
import { leaf, type Param, param, paramOf, type Tensor, topological } from '../core/tensor.ts';
import { engineFor } from './engine.ts';

await using engine = await engineFor('06: LoRA by hand');

/* 1. The situation. A "pretrained" W, and a new task whose best weights are W plus a change of rank 2:
 *    W* = W + 3·u₁v₁ᵀ + 1·u₂v₂ᵀ. Nobody tells LoRA so; it only sees inputs x and the outputs y that W* gives for them. */
const [N, IN, OUT] = [256, 24, 16];
const r = rng(6);
const x = leaf(r.normal(N * IN), [N, IN]);
const W = leaf(r.normal(OUT * IN, 1 / Math.sqrt(IN)), [OUT, IN]); // a leaf is frozen by nature
const [u1, u2] = orthonormal(OUT);
const [v1, v2] = orthonormal(IN);
const best = W.add(u1.matmul(v1.T).mul(3)).add(u2.matmul(v2.T).mul(1)); //  [out, in]
const y = leaf((await engine.read(x.matmul(best.T))).slice(), [N, OUT]);
const lossOf = (output: Tensor): Tensor => {
  const error = output.sub(y);
  return error.mul(error).sum().div(N); // mean over examples of ‖ŷ − y‖²
};

const frozen = x.matmul(W.T); //                                          [N, out]
const before = await engine.item(lossOf(frozen));
console.log(`the frozen W on the new task: loss ${before.toFixed(3)}   (3² + 1² = 10, about, for unit normal x)`);

/* 2. The method, all of it. B starts at zero, so the first output is the frozen one, bit for bit; A starts at random, because
 *    with both at zero neither would ever receive a gradient. */
function lora(rank: number, alpha = rank) {
  const A = param(r.split('A').uniform(rank * IN, -1 / Math.sqrt(IN), 1 / Math.sqrt(IN)), [rank, IN]);
  const B = param(new Float32Array(OUT * rank), [OUT, rank]);
  const s = alpha / rank;
  return {
    A,
    B,
    output: frozen.add(x.matmul(A.T).matmul(B.T).mul(s)), //               (x·Aᵀ)·Bᵀ: [N, in] → [N, r] → [N, out], never B·A
    merged: W.add(B.matmul(A).mul(s)), //                                  W + s·BA: the same as one weight [out, in]
  };
}
const start = lora(2);
console.log(`a fresh LoRA on the new task: loss ${(await engine.item(lossOf(start.output))).toFixed(3)}   (the same: B = 0)`);

/* 3. Its gradients. With δ = ∂L/∂y:   ∂L/∂B = s·δᵀ(xAᵀ)   and   ∂L/∂A = s·Bᵀδᵀx, which is zero as long as B is. */
const loss = lossOf(start.output);
const grads = grad(loss, [start.A, start.B]);
const [sizeA, sizeB] = [await norm(grads[0]!), await norm(grads[1]!)];
console.log(`\nat the start |∂L/∂A| = ${sizeA} and |∂L/∂B| = ${sizeB.toFixed(3)}: B moves first, A follows`);

/* 4. What is *not* there. A gradient is a recipe, so we can look at all that backward would compute: nothing has W's shape. */
const backward = topological(grads).filter((t) => t.at.phase === 'backward' && t.source.kind === 'apply');
const shapes = [...new Set(backward.map((t) => show(t.shape)))].join(' ');
console.log(`backward has ${backward.length} operations, of shapes ${shapes}`);
const found = backward.some((t) => show(t.shape) === show(W.shape));
console.log(`a gradient for W would be ${show(W.shape)}: ${found ? 'it is there' : 'it is nowhere'}`);

/* 5. Train, with gradient descent and momentum:  m ← μm + g,  w ← w − ηm.
 *    The best change of rank 1 keeps 3·u₁v₁ᵀ and misses the rest (Eckart–Young), so its loss cannot go below 1² = 1, about. */
console.log(`\n   rank   trained   of W's ${OUT * IN}   loss after 300 steps`);
for (const rank of [1, 2, 4]) {
  const { A, B, output, merged } = lora(rank);
  const loss = lossOf(output);
  const next = new Map<Param, Tensor>();
  for (const [k, g] of grad(loss, [A, B]).entries()) {
    const w = [A, B][k]!;
    const m = param(new Float32Array(g.shape[0]! * g.shape[1]!), g.shape, { active: false });
    const m2 = m.mul(0.9).add(g);
    next.set(paramOf(m)!, m2).set(paramOf(w)!, w.sub(m2.mul(0.01)));
  }
  const store = engine.store();
  const step = await engine.compile(store, { outputs: { loss }, next });
  for (let t = 0; t < 300; t++) await step.run();

  /* 6. Merge: after training the two thin matrices fold into W, and the model costs what it cost before. */
  const check = await engine.compile(store, { outputs: { loss, beside: output, folded: x.matmul(merged.T) } });
  const got = await check.run();
  const apart = Math.max(...got.beside.map((v, i) => Math.abs(v - got.folded[i]!)));
  const trained = rank * (IN + OUT);
  const percent = `${((100 * trained) / (OUT * IN)).toFixed(0)} %`;
  const cells = [String(rank).padStart(7), String(trained).padStart(10), percent.padStart(13), `   ${got.loss[0]!.toFixed(6)}`];
  console.log(`${cells.join('')}   merged and unmerged differ by at most ${apart.toExponential(0)}`);
  store.close();
}

/** Two unit vectors at a right angle, as columns [n, 1]. */
function orthonormal(n: number): readonly [Tensor, Tensor] {
  const [a, b] = [r.normal(n), r.normal(n)];
  const dot = (p: Float32Array, q: Float32Array): number => p.reduce((sum, v, i) => sum + v * q[i]!, 0);
  const along = dot(a, b) / dot(a, a);
  const c = b.map((v, i) => v - along * a[i]!); // b without its part along a
  const unit = (v: Float32Array): Tensor => leaf(v, [n, 1]).div(Math.sqrt(dot(v, v)));
  return [unit(a), unit(c)];
}
async function norm(t: Tensor): Promise<number> {
  return Math.hypot(...(await engine.read(t)));
}
