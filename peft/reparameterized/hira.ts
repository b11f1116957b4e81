// HiRA: the weight times a low-rank matrix, element by element: a change of high rank from few numbers.
//   W' = W + W ⊙ (B A),   A ∈ ℝ^{r×in} as LoRA's, B = 0 ∈ ℝ^{out×r};   no α
// Huang et al., ICLR 2025, "HiRA: Parameter-Efficient Hadamard High-Rank Adaptation". It stands on the weight, because W ⊙ (B A) leaves no
// short cut through rank r; hence no dropout of x, which Hugging Face PEFT offers (0 by default).
import type { Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { rankFits } from '../check.ts';
import { type Factors, factors, type LoraConfig, STARTS } from './lora.ts';

export type HiraConfig = Pick<LoraConfig, 'rank' | 'init'>;
const changed = (w: Tensor, { A, B }: Factors): Tensor => w.add(w.mul(B.matmul(A)));

export const hira = defineMethod<'weight', HiraConfig, Factors>({
  name: 'hira',
  family: 'reparameterized',
  paper: 'https://openreview.net/forum?id=TwJrTz9cRS',
  at: 'weight',
  defaults: { rank: 32, init: 'kaiming', where: ['q.weight', 'v.weight'] },
  takes: { init: STARTS },
  check: (site, { rank }) => {
    if (site.shape.length !== 2)
      throw new RangeError(`hira: ${site.path} is [${site.shape.join(', ')}], and HiRA changes matrices; choose weights of linear layers`);
    rankFits('hira', site, rank);
  },
  init: (site, c, r) => ({ train: factors(site, c, r) }),
  around: (call, p) => (ctx) => changed(call(ctx), p),
  fold: ({ weight, bias }, p) => ({ weight: changed(weight, p), bias }),
  count: (sites, { rank }) => {
    const train = sites.reduce((n, { shape: [out, into] }) => n + rank * (out! + into!), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
