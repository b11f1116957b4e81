// UniPELT's gates: a number between 0 and 1 for each token, or for each text, that reads what a submodule reads.
//   g = sigmoid(w·x + b), or the mean of that over the tokens;   central: [g_lora, g_prefix] = softmax(relu(W_c x + b_c))
// Mao et al. 2022, arXiv 2110.07577, §3.2.
import { softmax } from '../../core/ops/fused.ts';
import { relu, sigmoid } from '../../core/ops/map.ts';
import { concat, pad, reshape } from '../../core/ops/move.ts';
import { mean } from '../../core/ops/reduce.ts';
import type { Rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { withKeys } from '../../nn/context.ts';
import { BASE, type Layer, layer } from '../../nn/layer.ts';
import { asHeads } from '../additive/prefixAttention.ts';

export interface GateConfig {
  readonly gate: 'token' | 'example';
  readonly central: boolean; // LoRA and prefix share one gate: first and second share
}
/** w [n, d] and b [n]; empty where there is no such gate. */
export type Gate = readonly Tensor[];

/** w ~ N(0, 0.02²), b = 0. Count: n(d + 1) */
export const newGate = (n: number, d: number, r: Rng): Gate => [
  param(r.normal(n * d, 0.02), [n, d]),
  param(new Float32Array(n), [n], { decay: false }),
];
const overTokens = (g: Tensor, c: GateConfig): Tensor => (c.gate === 'token' ? g : mean(g, [1], true));
const score = ([w, b]: Gate, x: Tensor): Tensor => x.matmul(w!.T).add(b!); // [B, T, n]

/** g [B, T, 1] or [B, 1, 1]. */
export const opened = (gate: Gate, x: Tensor, c: GateConfig): Tensor => overTokens(sigmoid(score(gate, x)), c);

/** g for q, v and the prefix, each [B, T, 1] or [B, 1, 1]. */
export function gates(
  p: { readonly gateQ: Gate; readonly gateV: Gate; readonly gateP: Gate },
  x: Tensor,
  c: GateConfig,
): { q: Tensor; v: Tensor; prefix: Tensor } {
  if (c.central) {
    const both = softmax(overTokens(relu(score(p.gateP, x)), c));
    return { q: both.slice(2, 0, 1), v: both.slice(2, 0, 1), prefix: both.slice(2, 1) };
  }
  const g = (gate: Gate): Tensor => (gate.length === 0 ? x : opened(gate, x, c));
  return { q: g(p.gateQ), v: g(p.gateV), prefix: g(p.gateP) };
}

/** LoRA with a gate in the place of its scale. */
export const lowRank = (call: Layer<'linear'>, A: Tensor, B: Tensor, g: Tensor): Layer<'linear'> =>
  layer(
    'linear',
    { [BASE]: call },
    ({ [BASE]: call }) =>
      (x, ctx) =>
        call(x, ctx).add(x.matmul(A.T).matmul(B.T).mul(g)),
  );

/**
 * softmax([g q·P_kᵀ; q·kᵀ]/√D)·[g P_v; v]: what keys and values times g give, for a g that may differ from query to query. One call
 * on heads twice as wide: query [q, g q]·√2, text keys [k, 0], prefix keys [0, P_k], values alike; the halves of the answer add up.
 */
export const gatedPrefix = (call: Layer<'attend'>, keys: Tensor, values: Tensor, gate: Tensor): Layer<'attend'> =>
  layer('attend', { [BASE]: call }, ({ [BASE]: call }) => (q, k, v, ctx) => {
    const d = k.shape[3]!;
    const g = reshape(gate, [gate.shape[0]!, 1, gate.shape[1]!, 1]);
    const wide = (prefix: Tensor, text: Tensor): Tensor => concat([pad(asHeads(prefix, text), 3, d, 0), pad(text, 3, 0, d)], 2);
    const both = call(concat([q, q.mul(g)], 3).mul(Math.SQRT2), wide(keys, k), wide(values, v), withKeys(ctx, keys.shape[0]!));
    return both.slice(3, 0, d).add(both.slice(3, d).mul(g)); // [B, H, T, D]
  });
