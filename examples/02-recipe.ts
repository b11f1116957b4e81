// 02: what a recipe is. Take one apart, see which kernels it becomes, ask why a value is kept, run it on two engines.
import { float64 } from '../core/engines/float64.ts';
import { grad } from '../core/grad.ts';
import { softmax } from '../core/ops/fused.ts';
import { tanh } from '../core/ops/map.ts';
import { rng } from '../core/rng.ts';
import { schedule } from '../core/schedule.ts';
import { named } from '../core/scope.ts';
import { show } from '../core/shape.ts';
import { inputsOf, leaf, param, paramOf, type Tensor, topological } from '../core/tensor.ts';
import { why } from '../core/why.ts';
import { engineFor } from './engine.ts';

await using engine = await engineFor('02: what a recipe is');

/* 1. A recipe is what you wrote, and nothing has run. It is a graph: every tensor knows the operation it comes from, what that
 *    operation reads, and where it was written down. Nothing in it ever changes, so it can be shared, compared and rewritten. */
const r = rng(2);
const x = leaf(r.normal(4 * 3), [4, 3]);
const W = param(r.normal(3 * 5), [3, 5]);
const gain = param(r.normal(5, 0.1, 1), [5]);
const h = named('hidden', () => tanh(x.matmul(W))); //          [4, 5]
const p = named('head', () => softmax(h.mul(gain))); //         [4, 5]
const loss = p.mul(p).sum(); //                                 []

const order = topological([loss]); //                           inputs before users
const name = (t: Tensor): string => (t.source.kind === 'apply' ? t.source.op.name : t.source.kind);
console.log('the recipe of the loss:');
for (const [k, t] of order.entries()) {
  const reads = inputsOf(t).map((i) => `#${order.indexOf(i)}`);
  const line = `  #${k} ${name(t).padEnd(8)} ${show(t.shape).padEnd(7)}`;
  console.log(line + (reads.length === 0 ? '' : ` of ${reads.join(' and ')}`) + (t.at.path === '' ? '' : ` in ${t.at.path}`));
}

/* 2. An engine turns the graph into kernels. Ops with a name in every paper (softmax) are opened into what they are made of,
 *    equal parts are merged, and chains of element-by-element ops become one kernel: a + is between what was fused. */
const kernels = (roots: readonly Tensor[]): string[] => schedule(roots).steps.map(({ kernel }) => kernel.name);
console.log(`\nforward in kernels:  ${kernels([loss]).join(', ')}`);
const grads = grad(loss, [W, gain]); //                         ∂L/∂W [3, 5] and ∂L/∂gain [5]: recipes like any other
console.log(`with both gradients: ${kernels([loss, ...grads]).length} kernels`);

/* 3. Why is a value still in memory when backward runs? Because some derivative is written in terms of it. Which one that is
 *    depends on what is trained, and that is most of what there is to know about the memory of PEFT methods. */
const names = new Map([W, gain].map((t) => [paramOf(t)!, t === W ? 'W' : 'gain'] as const));
const xW = inputsOf(h)[0]!;
console.log('\ntraining both, about h = tanh(x·W):');
console.log(why([loss, ...grads], h, names));
console.log('about x·W beneath it (d tanh = 1 − h², so h is all that tanh needs):');
console.log(why([loss, ...grads], xW, names));

const [toShift, shift] = [h.mul(gain), param(new Float32Array(5), [5])]; // now W and gain stay, and a shift after them is trained
const shifted = softmax(toShift.add(shift)); //                 ∂(a + b)/∂b = 1: reads nothing
const loss2 = shifted.mul(shifted).sum();
console.log('training only a shift after h·gain, about the same h, which nobody needs any more:');
console.log(why([loss2, ...grad(loss2, [shift])], h));

/* 4. Any engine can run it. float64 runs the very text of the kernels in double precision: slow, and always right. */
await using oracle = float64();
const [fast, exact] = [await engine.read(grads[0]!), await oracle.read(grads[0]!)];
const apart = Math.max(...exact.map((v, i) => Math.abs(v - fast[i]!)));
console.log(`\n∂L/∂W on ${engine.report.engine} and on float64 differ by at most ${apart.toExponential(1)}`);
