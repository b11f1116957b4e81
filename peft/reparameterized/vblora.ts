// VB-LoRA: LoRA whose factors are put together from one small bank of vectors that all layers share.
//   every segment of b numbers of a row of A (of a column of B) = Σ_{top k} softmax(the k largest logits)·bank[index]
//   y = W x + b₀ + B A drop(x),   bank ∈ ℝ^{h×b} ~ U(±0.02), logits ∈ ℝ^{segments×h} ~ N(0, 0.1²);   no α; it does not start as the base
// Li et al. 2024, arXiv 2405.15179, §3. Finished, a segment keeps its k indices and k − 1 weights (they sum to 1), and is not trained further.
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between, dropoutFits, rankFits, wholeNumber } from '../check.ts';
import { dropped } from './lora.ts';
import { chosen, matrices, type Vblora } from './vectorBank.ts';

export interface VbloraConfig {
  readonly rank: number;
  readonly vectors: number; // h
  readonly vectorLength: number; // b, a divisor of every side
  readonly topK: number;
  readonly logitsRate: number; // learning rate of the logits, times the bank's (the paper trains at 1e-2 and 1e-3)
  readonly dropout: number; // on x, on this branch only
}

export const vblora = defineMethod<'linear', VbloraConfig, Vblora, { bank: Tensor }>({
  name: 'vblora',
  family: 'reparameterized',
  paper: 'arXiv:2405.15179',
  at: 'linear',
  defaults: { rank: 4, vectors: 256, vectorLength: 256, topK: 2, logitsRate: 10, dropout: 0, where: ['q', 'v'] },
  check: (site, c) => {
    rankFits('vblora', site, c.rank);
    for (const name of ['vectors', 'vectorLength'] as const) wholeNumber('vblora', name, c[name]);
    wholeNumber('vblora', 'topK', c.topK);
    between('vblora', 'topK', c.topK, 2, c.vectors, true); // with one, no logit would have a gradient
    between('vblora', 'logitsRate', c.logitsRate, 0, Number.MAX_VALUE);
    dropoutFits('vblora', c.dropout);
    if (site.shape.some((n) => n % c.vectorLength !== 0))
      throw new RangeError(
        `vblora: vectorLength ${c.vectorLength} must divide both sides of the weight [${site.shape.join(', ')}] at ${site.path}; choose a common divisor`,
      );
  },
  shared: (_, c, r) => ({ bank: param(r.uniform(c.vectors * c.vectorLength, -0.02, 0.02), [c.vectors, c.vectorLength]) }),
  init: ({ shape: [out, into] }, c, r, { shared }) => {
    const logits = (name: string, ...shape: [number, number]): Tensor =>
      param(r.split(name).normal(shape[0] * shape[1] * c.vectors, 0.1), [...shape, c.vectors], { lr: c.logitsRate });
    return {
      train: { ...shared, logitsA: logits('A', c.rank, into! / c.vectorLength), logitsB: logits('B', out! / c.vectorLength, c.rank) },
    };
  },
  around: (call, p, c, site) => (x, ctx) => {
    const { A, B } = matrices(p, c.topK);
    return call(x, ctx).add(dropped(x, c, site, ctx).matmul(A.T).matmul(B.T));
  },
  fold: ({ weight, bias }, p, c) => {
    const { A, B } = matrices(p, c.topK);
    return { weight: weight.add(B.matmul(A)), bias };
  },
  finish: (p, c) => {
    if (!('logitsA' in p)) return p;
    const [a, b] = [chosen(p.logitsA, c.topK), chosen(p.logitsB, c.topK)];
    return { bank: p.bank, indices: [a.index, b.index], weights: [a.weight.slice(-1, 0, -1), b.weight.slice(-1, 0, -1)] };
  },
  count: (sites, { rank, vectors, vectorLength, topK }) => {
    const segments = sites.reduce((n, { shape: [out, into] }) => n + (rank * (out! + into!)) / vectorLength, 0);
    const bank = vectors * vectorLength;
    return { train: bank + segments * vectors, stored: bank + segments * (2 * topK - 1) };
  },
  startsAsBase: () => 'no',
});
