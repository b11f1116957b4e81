// LoRA-FA: LoRA whose A stays as it was drawn. Of a layer's input only A x, of width r, is kept for backward.
//   y = W x + b + s·B A drop(x),   only B trained
//   with `preconditioned`: ĝ_B = g_B (A Aᵀ + 1e-8·I)⁻¹ / s², which makes the step s·ĝ_B A of the weight its gradient, projected on A's rows
// Zhang et al. 2023, arXiv 2308.03303, §3; the preconditioned gradient is that of the authors' optimizer in Hugging Face PEFT, where Adam with
// ε = 1e-6 follows: `adamw({ eps: 1e-6, weightDecay: 0 })` (there ε is added before v is corrected, so that in step t it acts as ε/√(1 − β₂ᵗ)).
// Without it, the optimizer sees the plain gradient.
import { leaf, paramOf, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { inverse, product, transposed } from '../linalg.ts';
import { atHand } from '../site.ts';
import { checkUpdate, type Factors, factors, type LoraConfig, STARTS, scaling, update } from './lora.ts';

export interface LoraFaConfig extends LoraConfig {
  readonly preconditioned: boolean;
}

/** (A Aᵀ + 1e-8·I)⁻¹ / s²: [r, r]. */
function preconditioner(A: Tensor, c: LoraFaConfig): Tensor {
  const a = atHand(A);
  if (a === null) throw new Error('loraFa: A is a recipe, but its numbers are needed; await realize(model, engine) first');
  const [rank, into] = A.shape as [number, number];
  const gram = product(a, transposed(a, rank, into), rank, into, rank).map((v, k) => v + (k % (rank + 1) === 0 ? 1e-8 : 0));
  return leaf(
    inverse(gram, rank).map((v) => v / scaling(c) ** 2),
    [rank, rank],
  );
}

export const loraFa = defineMethod<'linear', LoraFaConfig, Factors>({
  name: 'loraFa',
  family: 'reparameterized',
  paper: 'arXiv:2308.03303',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, init: 'kaiming', preconditioned: true, where: ['q', 'v'] },
  takes: { init: STARTS },
  check: checkUpdate('loraFa'),
  init: (site, c, r) => {
    const { A, B } = factors(site, c, r);
    return { train: { B }, fixed: { A: leaf(paramOf(A)!.value, A.shape) } };
  },
  ...update,
  hooks: ({ A, B }, c) =>
    c.preconditioned
      ? { afterGrad: (grads) => new Map([...grads].map(([p, g]) => [p, p === paramOf(B) ? g.matmul(preconditioner(A, c)) : g])) }
      : {},
  count: (sites, c) => ({ train: sites.reduce((n, { shape: [out] }) => n + c.rank * out!, 0), stored: update.count(sites, c).stored }),
  startsAsBase: () => 'close', // adds an exact zero
});
