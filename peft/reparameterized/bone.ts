// Bone: the weight cut into blocks of r × r, each multiplied by a small matrix of its block row, which is also added.
//   W'_{ik} = W_{ik} + W_{ik} M_i + M_i,   W_{ik} ∈ ℝ^{r×r} the block in row i and column k,   M ∈ ℝ^{(out/r)×r×r}, M = 0
// Kang & Yin 2024, arXiv 2409.15371 (first version; the later one is `miss`, and Hugging Face PEFT calls this form "bat"). It stands on the
// weight, because the product with W leaves no short cut past a change of W's size.
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';

/** W with its blocks changed. */
function changed(w: Tensor, M: Tensor): Tensor {
  const [out, into] = w.shape as [number, number];
  const r = M.shape[1]!;
  const blocks = w.reshape(out / r, r, into / r, r).permute(2, 0, 1, 3); // [in/r, out/r, r, r]
  return w.add(blocks.matmul(M).add(M).permute(1, 2, 0, 3).reshape(out, into));
}

export const bone = defineMethod<'weight', { readonly rank: number }, { M: Tensor }>({
  name: 'bone',
  family: 'reparameterized',
  paper: 'arXiv:2409.15371',
  at: 'weight',
  defaults: { rank: 64, where: ['q.weight', 'v.weight'] },
  check: ({ path, shape }, { rank }) => {
    wholeNumber('bone', 'rank', rank);
    if (shape.length !== 2 || shape.some((n) => n % rank !== 0))
      throw new RangeError(`bone: rank ${rank} at ${path} must divide both sides of a matrix, and this is [${shape.join(', ')}]`);
  },
  init: ({ shape: [out] }, { rank }) => ({ train: { M: param(new Float32Array(out! * rank), [out! / rank, rank, rank]) } }),
  around:
    (call, { M }) =>
    (ctx) =>
      changed(call(ctx), M),
  fold: ({ weight, bias }, { M }) => ({ weight: changed(weight, M), bias }),
  count: (sites, { rank }) => {
    const train = sites.reduce((n, { shape: [out] }) => n + out! * rank, 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
