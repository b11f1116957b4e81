// The network of PHA that makes the adapter of a block, from the block and the prototype of a task.
//   I_i = LN(W₂ ReLU(W₁ [k_τ; l_i] + b₁) + b₂);   D_i, c_i, U_i, e_i linear in I_i;   U_i σ(D_i x + c_i) + e_i
// Zhao et al. 2023, arXiv 2310.11670, §3, as in the authors' code.
import { layerNorm } from '../../core/ops/fused.ts';
import { gather } from '../../core/ops/index.ts';
import { concat, pad, reshape } from '../../core/ops/move.ts';
import type { Rng } from '../../core/rng.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { activations } from '../../nn/mlp.ts';
import { type BottleneckConfig, widthOf } from './bottleneck.ts';
import { twice } from './phaLoss.ts';

export interface PhaConfig extends BottleneckConfig {
  readonly tasks: number; // K; with more than one the task of each row is fed as `task` [B]
  readonly embedding: number; // e, of prototypes, blocks, I and z
  readonly hidden: number; // of the generator and of the retriever
  readonly weight: number; // λ
  readonly temperature: number; // ϑ
}
export type Pha = {
  readonly prototypes: Tensor; // k [K, e]
  readonly blocks: Tensor; // l [L, e]
  readonly generator: readonly Tensor[]; // W₁ [hidden, 2e], b₁, W₂ [e, hidden], b₂, gain, shift
  readonly heads: readonly Tensor[]; // of D, c, U, e: [n, e] and [n], one after the other
  readonly retriever?: readonly Tensor[]; // R₁ [hidden, d], r₁, R₂ [e, hidden], r₂
};

const sizes = (m: number, d: number): readonly number[] => [m * d, m, d * m, d];
const uniform = (out: number, into: number, bound: number, r: Rng, bias = bound): Tensor[] => [
  param(r.split('weight').uniform(out * into, -bound, bound), [out, into]),
  param(bias === 0 ? new Float32Array(out) : r.split('bias').uniform(out, -bias, bias), [out], { decay: false }),
];
const usual = (out: number, into: number, r: Rng): Tensor[] => uniform(out, into, 1 / Math.sqrt(into), r);

/** For n blocks of width d; the starts are those `pha` names. */
export function newPha(c: PhaConfig, d: number, n: number, r: Rng): Pha {
  const [e, h] = [c.embedding, c.hidden];
  const m = widthOf(c, d);
  const inputs = [d, 1, m, 1]; // of what a head makes; a bias has none
  return {
    prototypes: param(r.split('prototypes').normal(c.tasks * e), [c.tasks, e]),
    blocks: param(r.split('blocks').normal(n * e), [n, e]),
    generator: [
      ...usual(h, 2 * e, r.split('first')),
      ...usual(e, h, r.split('second')),
      param(new Float32Array(e).fill(1), [e], { decay: false }),
      param(new Float32Array(e), [e], { decay: false }),
    ],
    heads: sizes(m, d).flatMap((out, k) => uniform(out, e, 1e-3 * Math.sqrt(3 / (e * inputs[k]!)), r.split('heads').split(k), 0)),
    ...(c.tasks === 1 ? {} : { retriever: [...usual(h, d, r.split('read')), ...usual(e, h, r.split('place'))] }),
  };
}

/** The adapter of block i, x [B, T, d] → [B, T, d], from prototypes k [1 or B, e]. */
export const adapterOf =
  (p: Pha, k: Tensor, i: number, c: PhaConfig) =>
  (x: Tensor): Tensor => {
    const [n, d] = [k.shape[0]!, x.shape.at(-1)!];
    const m = widthOf(c, d);
    const l = gather(p.blocks, leaf(new Float32Array(n).fill(i), [n]));
    const I = layerNorm(twice(concat([k, l], 1), p.generator), p.generator[4]!, p.generator[5]!, 1e-6);
    const made = (q: number, ...shape: number[]): Tensor => reshape(I.matmul(p.heads[2 * q]!.T).add(p.heads[2 * q + 1]!), [n, ...shape]);
    const up = concat([made(2, d, m), made(3, d, 1)], 2); // e_i stands beside U_i for an input of 1: one gradient for both
    return pad(activations[c.activation](x.matmul(made(0, m, d).T).add(made(1, 1, m))), 2, 0, 1, 1).matmul(up.T);
  };

/** e(K + L) + (2e + 1)h + (h + 3)e + (e + 1)(2md + m + d), and with K > 1 (d + 1)h + (h + 1)e. */
export function phaSize(c: PhaConfig, d: number, n: number): number {
  const [e, h] = [c.embedding, c.hidden];
  const heads = sizes(widthOf(c, d), d).reduce((a, b) => a + b) * (e + 1);
  const reads = c.tasks === 1 ? 0 : (d + 1) * h + (h + 1) * e;
  return e * (c.tasks + n) + (2 * e + 1) * h + (h + 3) * e + heads + reads;
}
