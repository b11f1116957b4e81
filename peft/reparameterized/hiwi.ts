// HiWi: a bottleneck adapter that reads a parameter in place of a hidden state, and is thrown away once its answer is the parameter's.
//   θ' = θ + σ(θ D) U,   D ∈ ℝ^{n×r}, U ∈ ℝ^{r×n} for rows θ ∈ ℝⁿ: a whole bias, or each row (all weights of one output) of a matrix
//   D ~ U(±1/√n), U = 0: it starts as the base. Merged it costs nothing: of a bias only n numbers are left to store, whatever r was.
// Liao et al. 2023 (ACL), arXiv 2305.16742, §4: at the biases of both feed-forward layers. From the paper's abstract, its figure's note on
// storage and METHODS; not verified: the start of D, σ (`activation`, here relu), and by which side a matrix is read.
import { param, type Tensor } from '../../core/tensor.ts';
import { ACTIVATIONS, type Activation, activations } from '../../nn/mlp.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';

export interface HiwiConfig {
  readonly bottleneck: number; // r
  readonly activation: Activation; // σ
}
type Hiwi = { down: Tensor; up: Tensor };

/** θ + σ(θ D) U in θ's shape. */
function adapted(value: Tensor, { down, up }: Hiwi, { activation }: HiwiConfig): Tensor {
  const rows = value.reshape(-1, value.shape.at(-1)!);
  return value.add(
    activations[activation](rows.matmul(down))
      .matmul(up)
      .reshape(...value.shape),
  );
}

/** Count: 2rn for each parameter of last dimension n while it trains. */
export const hiwi = defineMethod<'weight', HiwiConfig, Hiwi>({
  name: 'hiwi',
  family: 'reparameterized',
  paper: 'arXiv:2305.16742',
  at: 'weight',
  defaults: { bottleneck: 16, activation: 'relu', where: ['up.bias', 'down.bias'] },
  takes: { activation: ACTIVATIONS },
  otherwise: "A network without biases has its weights: write where: ['up.weight', 'down.weight'].",
  check: (_, { bottleneck }) => wholeNumber('hiwi', 'bottleneck', bottleneck),
  init: ({ shape }, { bottleneck: r }, draw) => {
    const n = shape.at(-1)!;
    return {
      train: {
        down: param(draw.uniform(n * r, -1 / Math.sqrt(n), 1 / Math.sqrt(n)), [n, r]),
        up: param(new Float32Array(r * n), [r, n]),
      },
    };
  },
  around: (call, p, c) => (ctx) => adapted(call(ctx), p, c),
  fold: ({ weight, bias }, p, c) => ({ weight: adapted(weight, p, c), bias }),
  count: (sites, { bottleneck }) => {
    const train = sites.reduce((n, { shape }) => n + 2 * bottleneck * shape.at(-1)!, 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
