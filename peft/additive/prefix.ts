// What prefix methods share: tables of keys and values, and the MLP that may make them while they are trained.
//   [P_k,1, P_v,1, …, P_k,L, P_v,L] = W₂ tanh(W₁ E + b₁) + b₂
// Li & Liang 2021, arXiv 2101.00190, §4.3.
import { tanh } from '../../core/ops/map.ts';
import type { Numbers } from '../../core/plan.ts';
import type { Rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';

/** A key table and a value table [p, Hk·D] for each attention layer, in turn: as they are, or as the MLP makes them. */
export type Prefix = { readonly table: readonly Tensor[] } | (PrefixHidden & PrefixOutput);

/** The part of the MLP that all layers read. E [p, d], W1 [m, d], b1 [m] */
export type PrefixHidden = { readonly E: Tensor; readonly W1: Tensor; readonly b1: Tensor };

/** W2 [Hk·D, m] and b2 [Hk·D] for each table. */
export type PrefixOutput = { readonly W2: readonly Tensor[]; readonly b2: readonly Tensor[] };

/** The tables, with the MLP applied. */
export function flatten(t: Prefix): readonly Tensor[] {
  if ('table' in t) return t.table;
  const hidden = tanh(t.E.matmul(t.W1.T).add(t.b1)); // [p, m]
  return t.W2.map((w, i) => hidden.matmul(w.T).add(t.b2[i]!));
}

/** A linear layer's usual start: U(±1/√in). */
const linear = (r: Rng, n: number, from: number): Float32Array => r.uniform(n, -1 / Math.sqrt(from), 1 / Math.sqrt(from));

/** E ~ N(0, 1). Count: pd + dm + m */
export const newPrefixHidden = (p: number, d: number, m: number, r: Rng): PrefixHidden => ({
  E: param(r.split('E').normal(p * d), [p, d]),
  W1: param(linear(r.split('W1'), m * d, d), [m, d]),
  b1: param(linear(r.split('b1'), m, d), [m], { decay: false }),
});

export const prefixHiddenSize = (p: number, d: number, m: number): number => p * d + d * m + m;

/** `widths` gives Hk·D of each table; `zero` starts the last layer (or the tables) at 0, else tables are N(0, 1). Count: Σ(m + 1)w or Σpw */
export function newPrefix(widths: readonly number[], p: number, hidden: PrefixHidden | null, zero: boolean, r: Rng): Prefix {
  const numbers = (n: number, draw: () => Float32Array): Float32Array => (zero ? new Float32Array(n) : draw());
  if (hidden === null)
    return {
      table: widths.map((w, i) =>
        param(
          numbers(p * w, () => r.split(`table ${i}`).normal(p * w)),
          [p, w],
        ),
      ),
    };
  const m = hidden.W1.shape[0]!;
  return {
    ...hidden,
    W2: widths.map((w, i) =>
      param(
        numbers(w * m, () => linear(r.split(`W2 ${i}`), w * m, m)),
        [w, m],
      ),
    ),
    b2: widths.map((w, i) =>
      param(
        numbers(w, () => linear(r.split(`b2 ${i}`), w, m)),
        [w],
        { decay: false },
      ),
    ),
  };
}

export const prefixSize = (widths: readonly number[], p: number, m: number | null): number =>
  widths.reduce((n, w) => n + w, 0) * (m === null ? p : m + 1);

/** Tables that start from numbers someone read: a text's keys and values. */
export const prefixFrom = (widths: readonly number[], p: number, numbers: readonly Numbers[]): Prefix => ({
  table: widths.map((w, i) => param(numbers[i]!, [p, w])),
});
