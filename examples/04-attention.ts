// 04: attention by hand. From two matrix products and a softmax to the fused op, with every intermediate number printed.
import { grad } from '../core/grad.ts';
import { attention, softmax } from '../core/ops/fused.ts';
import { iota } from '../core/ops/index.ts';
import { gt } from '../core/ops/map.ts';
import { rng } from '../core/rng.ts';
import { param, type Tensor } from '../core/tensor.ts';
import { engineFor } from './engine.ts';

await using engine = await engineFor('04: attention by hand');

// Shapes: B sequences, H heads, T tokens, D numbers per head. The fused op wants all four; one sequence and one head will do.
const [B, H, T, D] = [1, 1, 5, 4];
const r = rng(4);
const random = (): Tensor => param(r.normal(B * H * T * D), [B, H, T, D]);
const [q, k, v] = [random(), random(), random()]; // what a token looks for, what it offers, what it hands over

/* 1. Scores: how well query i fits key j.  Sᵢⱼ = qᵢ·kⱼ/√D
 *    A sum of D products of unit normals has variance D, and dividing by √D makes it 1 whatever the width. */
const scores = q.matmul(k.T).mul(1 / Math.sqrt(D)); //        [B, H, T, T]
await table('scores  q·kᵀ/√D: query i (row) meets key j (column)', scores);

/* 2. The causal mask: token i may not see the tokens after it. It is added to the scores, and e^(−1e9) is 0.
 *    (−∞ would do the same, but a row of nothing but −∞ is 0/0: a finite number keeps fully masked rows finite.) */
const row = iota(T).reshape(T, 1); //                          [T, 1]
const column = iota(T).reshape(1, T); //                       [1, T]
const mask = gt(column, row).mul(-1e9); //                     [T, T] by broadcasting: −1e9 where j > i, else 0
await table('mask: −1e9 above the diagonal', mask);

/* 3. Softmax turns a row of scores into weights that are positive and add up to 1.  Pᵢⱼ = e^Sᵢⱼ / Σₖ e^Sᵢₖ */
const weights = softmax(scores.add(mask)); //                  [B, H, T, T]
await table('weights  softmax(scores + mask): the first token sees only itself', weights);
await table('their sums over j', weights.sum([-1], true).reshape(1, T));

/* 4. Each token gets the weighted mean of the values it may see.  oᵢ = Σⱼ Pᵢⱼ vⱼ */
const byHand = weights.matmul(v); //                           [B, H, T, D]
await table('output  weights·v: its first row is v₀, because token 0 sees nothing else', byHand);
await table('v, to compare', v);

/* 5. The same in one op. An engine may run it in a way of its own, to the last few bits; one that has none runs the lines
 *    above, and then not a single bit differs. */
const fused = attention(q, k, v, { causal: true });
console.log(`by hand and fused: outputs differ by at most ${await apart(byHand, fused)}`);

/* 6. And the same for its three gradients, of a loss that weighs every output differently. */
const loss = (o: Tensor): Tensor => o.mul(iota(D).add(1)).sum();
const hand = grad(loss(byHand), [q, k, v]);
const op = grad(loss(fused), [q, k, v]);
for (const [i, name] of ['dq', 'dk', 'dv'].entries())
  console.log(`by hand and fused: ${name} differs by at most ${await apart(hand[i]!, op[i]!)}`);

/* 7. What the mask does to gradients: nobody after token i matters to output i, so ∂oᵢ/∂vⱼ = 0 for j > i. */
const [dv] = grad(byHand.slice(2, 1, 2).sum(), [v]) as [Tensor]; // only the output of token 1
await table('∂ Σ o₁ / ∂v: token 1 reaches back to the values of tokens 0 and 1, never ahead', dv);

/** Prints the last two dimensions as a table. */
async function table(title: string, t: Tensor): Promise<void> {
  const values = await engine.read(t);
  const cols = t.shape.at(-1)!;
  console.log(title);
  for (let i = 0; i < values.length; i += cols) console.log(`  ${[...values.slice(i, i + cols)].map((x) => cell(x).padStart(8)).join('')}`);
  console.log();
}
function cell(x: number): string {
  if (Math.abs(x) >= 1e6) return x.toExponential(0);
  return x === 0 ? '·' : x.toFixed(3);
}

/** The largest difference between two tensors, each computed on its own. */
async function apart(a: Tensor, b: Tensor): Promise<number> {
  const [x, y] = [await engine.read(a), await engine.read(b)];
  return Math.max(...x.map((value, i) => Math.abs(value - y[i]!)));
}
