// HyperFormer++: one small network makes the weights of all adapters, from what task, block and place they are for.
//   I = LN(W_b ReLU(W_a [z_τ; l_i; p_j] + b_a) + b_b);   D = reshape(W_D I + b_D),  c_D = V_D I + …,  U, c_U, γ and β alike
//   y = h + γ ⊙ LN₀(U σ(D h + c_D) + c_U) + β,   h the answer of attention (p₁) or feed-forward (p₀) of block i, LN₀ without gain and shift
// Karimi Mahabadi et al. 2021, arXiv 2106.04489, §2.3–2.4, as in the authors' code (HyperFormer has one such network for each block).
// The network: hyperformerNetwork.ts.
import { layerNorm } from '../../core/ops/fused.ts';
import { leaf } from '../../core/tensor.ts';
import { activations } from '../../nn/mlp.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import { checkBottleneck, TAKES, widthOf } from './bottleneck.ts';
import { type Hyper, type HyperformerConfig, maker, networkSize, newNetworks } from './hyperformerNetwork.ts';

/**
 * Defaults as the authors' HyperFormer++ runs: m = d/32, tanh GELU, z, l and p of 64 numbers ~ N(0, 1), hidden 128, e = 64; matrices
 * N(0, 0.01²), biases 0. They train the backbone's norms too, a step of its own (see `houlsby`), at lr 3e-4. A new task trains from a
 * z of its own. Count: tK + lt for l blocks + pt for p places, (3t + 1)·hidden + (hidden + 3)·e, and (e + 1)(2md + m + 3d).
 */
export const hyperformer = defineMethod<'branch', HyperformerConfig, Hyper, ReadonlyMap<string, Hyper>>({
  name: 'hyperformer',
  family: 'additive',
  paper: 'arXiv:2106.04489',
  at: 'branch',
  defaults: {
    ...{ bottleneck: null, reduction: 32, activation: 'geluTanh', tasks: 1, embedding: 64, hidden: 128, projected: 64 },
    where: ['attn', 'mlp'],
  },
  takes: TAKES,
  check: (_, c) => {
    checkBottleneck('hyperformer', { ...c, init: 'bert' });
    for (const name of ['tasks', 'embedding', 'hidden', 'projected'] as const) wholeNumber('hyperformer', name, c[name]);
  },
  shared: newNetworks,
  init: ({ path }, _, _r, { shared }) => ({ train: shared.get(path)! }),
  around: (call, p, c) => (x, ctx) => {
    const h = call(x, ctx); // [B, T, d]
    const d = h.shape.at(-1)!;
    const m = widthOf(c, d);
    const made = maker(p, c, h.shape[0]!);
    const down = activations[c.activation](h.matmul(made(0, m, d).T).add(made(1, 1, m)));
    const up = down.matmul(made(2, d, m).T).add(made(3, 1, d));
    const plain = layerNorm(up, leaf(new Float32Array(d).fill(1), [d]), leaf(new Float32Array(d), [d]));
    return h.add(plain.mul(made(4, 1, d)).add(made(5, 1, d)));
  },
  count: (sites, c) => {
    const train = networkSize(sites, c);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});
