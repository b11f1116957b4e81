// 01: a tensor and its gradient. The whole of autodiff in one straight line: write a loss, ask for its gradient, read both.
import { grad } from '../core/grad.ts';
import { leaf, param, type Tensor } from '../core/tensor.ts';
import { engineFor } from './engine.ts';

await using engine = await engineFor('01: a tensor and its gradient');

const x = leaf([1, 2, 3, 4, 5, 6], [2, 3]); // two rows of data: numbers that stay as they are    [2, 3]
const w = param([0.5, -1, 2], [3, 1]); //      a weight: numbers that training may change          [3, 1]
const half = (v: Tensor): Tensor => v.mul(v).sum().mul(0.5);

const y = x.matmul(w); //                      y = x·w                                             [2, 1]
const loss = half(y); //                       L = ½ Σ yᵢ²                                         []

// Nothing has been computed so far. A tensor here is not an array of numbers but a recipe for them:
console.log('loss is ', loss);

// So a gradient is a recipe too. By the chain rule ∂L/∂yᵢ = yᵢ, and therefore ∂L/∂w = xᵀ·y.
const [dw] = grad(loss, [w]) as [Tensor];
console.log('dw is   ', dw);

// Numbers come from an engine, and only when they are asked for.
const numbers = async (t: Tensor): Promise<number[]> => [...(await engine.read(t))];
console.log('\ny       ', await numbers(y), '  by hand: 1·0.5 − 2·1 + 3·2 = 4.5 and 4·0.5 − 5·1 + 6·2 = 9');
console.log('loss    ', await engine.item(loss), '    by hand: (4.5² + 9²)/2 = 50.625');
console.log('dw      ', await numbers(dw), '  by hand: xᵀ·y = [4.5 + 36, 9 + 45, 13.5 + 54]');

// Never trust a gradient you have not nudged: (L(w + h) − L(w − h)) / 2h must say the same about each weight.
const h = 0.25; // as large as that because L is quadratic, where central differences are exact
const lossAt = (k: number, by: number): Promise<number> => {
  const nudge = leaf([0, 0, 0].with(k, by), [3, 1]);
  return engine.item(half(x.matmul(w.add(nudge))));
};
const nudged: number[] = [];
for (const k of [0, 1, 2]) nudged.push(((await lossAt(k, h)) - (await lossAt(k, -h))) / (2 * h));
console.log('nudged  ', nudged);

// One step downhill, w ← w − η·∂L/∂w, is again only a recipe.
const better = w.sub(dw.mul(0.01));
console.log('\nafter one step downhill the loss is', (await engine.item(half(x.matmul(better)))).toFixed(2));
