// IPT, intrinsic prompt tuning: a task is a few numbers, and a decoder learned from the prompts of many tasks makes its prompt of them.
//   P = W₂ tanh(W₁ z + b₁) + b₂,   z ∈ ℝ^k trained, W₁ ∈ ℝ^{m×k} and W₂ ∈ ℝ^{pd×m} frozen;   h = trunk([P; embed(x)])[p:]
// Qin et al. 2021, arXiv 2110.07867, §4, and the authors' code. The decoder is found by iptSubspace.ts; `finish` leaves the rows.
import { tanh } from '../../core/ops/map.ts';
import { reshape } from '../../core/ops/move.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { lengthFits, wholeNumber } from '../check.ts';
import { promptInFront } from './promptRows.ts';

export interface IptConfig {
  readonly length: number; // p
  readonly dimension: number; // k
  readonly hidden: number; // m
}
export type Decoder = Record<'W1' | 'b1' | 'W2' | 'b2', Tensor>;
type Ipt = { readonly P: Tensor } | ({ readonly z: Tensor } & Decoder);

/** W₂ tanh(W₁ z + b₁) + b₂, for each row of z: [N, k] → [N, p·d]. */
export const decoded = (z: Tensor, t: Decoder): Tensor => tanh(z.matmul(t.W1.T).add(t.b1)).matmul(t.W2.T).add(t.b2);

/** A linear layer's usual start, U(±1/√in), for the decoder of these sizes. */
export const decoderNumbers = (c: IptConfig, d: number, draw: (name: string, n: number, from: number) => Float32Array) => {
  const [k, m, out] = [c.dimension, c.hidden, c.length * d];
  return [
    ['W1', draw('W1', m * k, k), [m, k]],
    ['b1', draw('b1', m, k), [m]],
    ['W2', draw('W2', out * m, m), [out, m]],
    ['b2', draw('b2', out, m), [out]],
  ] as const;
};

const rowsOf = (t: Ipt, { length: p, dimension: k }: IptConfig): Tensor => {
  if ('P' in t) return t.P;
  const flat = decoded(reshape(t.z, [1, k]), t);
  return reshape(flat, [p, flat.shape[1]! / p]);
};

export const checkIpt = (method: string, c: IptConfig): void => {
  for (const name of ['length', 'dimension', 'hidden'] as const) wholeNumber(method, name, c[name]);
};

/**
 * As attached, the decoder is random: the authors' control. `iptTarget` puts a learned one in its place. Defaults: 100 rows and m = 768
 * as in the authors' code, k = 250, with which the paper recovers most of prompt tuning. z ~ N(0, 0.02²). Afterwards the rows may go on
 * by themselves: prompt tuning from the rows that `finish` leaves. Count: k trained; p·d stored.
 */
export const ipt = defineMethod<'trunk', IptConfig, Ipt>({
  name: 'ipt',
  family: 'additive',
  paper: 'arXiv:2110.07867',
  at: 'trunk',
  defaults: { length: 100, dimension: 250, hidden: 768, where: 'trunk' },
  check: (site, c) => {
    lengthFits('ipt', site, c.length);
    checkIpt('ipt', c);
  },
  init: (site, c, r) => ({
    train: { z: param(r.split('z').normal(c.dimension, 0.02), [c.dimension]) },
    fixed: Object.fromEntries(
      decoderNumbers(c, site.dim('width'), (name, n, from) => r.split(name).uniform(n, -1 / Math.sqrt(from), 1 / Math.sqrt(from))).map(
        ([name, numbers, shape]) => [name, leaf(numbers, shape)],
      ),
    ),
  }),
  around: (call, t, c) => promptInFront(call, rowsOf(t, c)),
  finish: (t, c) => ({ P: rowsOf(t, c) }),
  count: (sites, { length, dimension }) => ({
    train: sites.length * dimension,
    stored: sites.reduce((n, s) => n + length * s.dim('width'), 0),
  }),
  startsAsBase: () => 'no',
});
