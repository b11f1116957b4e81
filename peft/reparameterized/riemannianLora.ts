// Riemannian LoRA: LoRA whose gradients are rescaled by the other factor, so that a step of the product B A does not depend on how it is split.
//   ĝ_A = (Bᵀ B + δI)⁻¹ g_A,   ĝ_B = g_B (A Aᵀ + δI)⁻¹,   then any optimizer;   y = W x + b + s·B A drop(x)
// Zhang & Pilanci 2024, arXiv 2402.02347, §3. As PEFT's optimizer has it: both from the values before the step, on gradients that are already
// accumulated and clipped there and accumulated, not yet clipped, here. δ is damping, for factors that are (nearly) of lower rank: B = 0 at the start.
import { paramOf, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between } from '../check.ts';
import { identity, inverseOfPositive } from '../transforms.ts';
import { checkUpdate, type Factors, factors, type LoraConfig, STARTS, update } from './lora.ts';

export interface RiemannianLoraConfig extends LoraConfig {
  readonly damping: number; // δ
}

/** Count: r(in + out); nothing is stored besides, and a step costs two r × r inverses for each layer. */
export const riemannianLora = defineMethod<'linear', RiemannianLoraConfig, Factors>({
  name: 'riemannianLora',
  family: 'reparameterized',
  paper: 'arXiv:2402.02347',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, init: 'kaiming', damping: 0.01, where: ['q', 'v'] },
  takes: { init: STARTS },
  check: (site, c) => {
    checkUpdate('riemannianLora')(site, c);
    between('riemannianLora', 'damping', c.damping, Number.MIN_VALUE, Number.MAX_VALUE);
  },
  init: (site, c, r) => ({ train: factors(site, c, r) }),
  ...update,
  byRow: true,
  hooks: ({ A, B }, { rank, damping }) => ({
    afterGrad: (grads) => {
      const inverse = (gram: Tensor): Tensor => inverseOfPositive(gram.add(identity(rank).mul(damping)));
      const [a, b] = [paramOf(A), paramOf(B)];
      return new Map(
        [...grads].map(([p, g]) => [p, p === a ? inverse(B.T.matmul(B)).matmul(g) : p === b ? g.matmul(inverse(A.matmul(A.T))) : g]),
      );
    },
  }),
  startsAsBase: () => 'close', // adds an exact zero
});
