// What AdapterFusion's attention sees: the answers of the adapters at a token, and the scores of each.
//   u_n = the answer of adapter n to z, without residual;   score_n = (W_q z + b_q)·(W_k u_n + b_k) / T
// Pfeiffer et al. 2021, arXiv 2005.00247, §3.2.
import { softmax } from '../../core/ops/fused.ts';
import { stack } from '../../core/ops/move.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Activation } from '../../nn/mlp.ts';
import { type Bottleneck, throughBottleneck } from './bottleneck.ts';

export interface AdapterFusionConfig {
  readonly adapters: readonly { readonly bottleneck: number; readonly activation: Activation }[]; // what is fused; `fused(models)` fills it in
  readonly value: boolean; // W_v, regularised ("dynamic"); false: u_n as they are ("static")
  readonly regularization: number; // λ of λ‖I − W_v‖²_F at each place
  readonly temperature: boolean; // T = 50, less 0.05 after each step, down to 1; false: T = 1
  readonly dropout: number; // on the scores, before the softmax
}

/** Frozen adapters as lists over n: down [m, d], downBias [m], up [d, m], upBias [d]. */
export type Knowledge = { readonly [K in keyof Bottleneck]: readonly Tensor[] };

export type Fusion = Knowledge & { query: Tensor; queryBias: Tensor; key: Tensor; keyBias: Tensor; value?: Tensor; temperature?: Tensor };

/** u_n of each adapter and their scores: [B, T, N, d] and [B, T, N]. */
export function scored(p: Fusion, z: Tensor, c: AdapterFusionConfig): { u: Tensor; scores: Tensor } {
  const [b, t, d] = z.shape as readonly [number, number, number];
  const n = p.down.length;
  const u = stack(
    p.down.map((down, k) => {
      const one = { down, downBias: p.downBias[k]!, up: p.up[k]!, upBias: p.upBias[k]! };
      return throughBottleneck(z, one, c.adapters[k]!.activation);
    }),
    2,
  );
  const q = z.matmul(p.query.T).add(p.queryBias).reshape(b, t, d, 1);
  const scores = u.matmul(p.key.T).add(p.keyBias).matmul(q).reshape(b, t, n);
  return { u, scores: p.temperature === undefined ? scores : scores.div(p.temperature) };
}

/** α [B, T, N] of a place, for what its adapters read. */
export const fusionAttention = (p: Fusion, z: Tensor, c: AdapterFusionConfig): Tensor => softmax(scored(p, z, c).scores);
