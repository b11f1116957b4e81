// FRoD: the weights of one kind in all blocks are taken apart together, over one basis; what is trained is each one's stretch of that basis and a few rotations.
//   W_l ≈ U_l diag(λ_l) Vᵀ, V shared by all blocks (frodBasis.ts);   y = W x + b + U (S + diag(λ − λ⁰)) Vᵀ drop(x),   λ and the few entries of S trained, S = 0 at the start
// AAAI 2026, doi 10.1609/aaai.v40i31.39813, as built in PEFT, which writes U (S + diag λ) Vᵀ in the place of W: the same but for rounding.
import { gather, scatterAdd } from '../../core/ops/index.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between, dropoutFits } from '../check.ts';
import { identity } from '../transforms.ts';
import { entries, type Start } from './frodBasis.ts';
import { category, startsByKind } from './frodKinds.ts';
import { dropped } from './lora.ts';

export interface FrodConfig {
  readonly sparsity: number; // share of S that is trained
  readonly damping: number; // α
  readonly dropout: number; // on x, on this branch only
}
/** lambda, values [in], [n]; fixed: start = λ⁰ [in], U [out, in], V [in, in], row and col [n] of S. */
export type Frod = Record<'lambda' | 'values' | 'start' | 'U' | 'V' | 'row' | 'col', Tensor>;
/** (S + diag(λ − λ⁰)) z for z [.., in] */
function turned(z: Tensor, { lambda, values, start, row, col }: Frod): Tensor {
  const flat = z.reshape(-1, z.shape.at(-1)!);
  const stretched = z.mul(lambda.sub(start));
  if (values === undefined) return stretched;
  const s = scatterAdd(row, gather(flat.T, col).mul(values.reshape(-1, 1)), z.shape.at(-1)!).T;
  return stretched.add(s.reshape(...z.shape));
}

/** Needs `prepare`. Defaults as PEFT's: 1 % of S, on q and v. Count: in + n for each layer; U, λ⁰ of each and V of each kind are stored as well. */
export const frod = defineMethod<'linear', FrodConfig, Frod, null, ReadonlyMap<string, Start>>({
  name: 'frod',
  family: 'reparameterized',
  paper: 'https://doi.org/10.1609/aaai.v40i31.39813',
  at: 'linear',
  defaults: { sparsity: 0.01, damping: 1e-3, dropout: 0, where: ['q', 'v'] },
  check: (_, c) => {
    between('frod', 'sparsity', c.sparsity, 0, 1, true);
    between('frod', 'damping', c.damping, Number.MIN_VALUE, Number.MAX_VALUE);
    dropoutFits('frod', c.dropout);
  },
  prepare: startsByKind,
  init: ({ path, shape: [, into] }, c, _, { prepared }) => {
    const fixed = prepared.get(path)!;
    const n = entries(into!, c);
    const lambda = fixed.start.source.kind === 'leaf' ? fixed.start.source.data : new Float64Array(into!);
    return {
      train: {
        lambda: param(lambda.slice(), [into!], { decay: false }),
        ...(n === 0 ? {} : { values: param(new Float32Array(n), [n], { decay: false }) }),
      },
      fixed,
    };
  },
  around: (call, p, c, site) => (x, ctx) => call(x, ctx).add(turned(dropped(x, c, site, ctx).matmul(p.V), p).matmul(p.U.T)),
  fold: ({ weight, bias }, p) => ({ weight: weight.add(p.U.matmul(turned(identity(p.V.shape[0]!), p).T).matmul(p.V.T)), bias }),
  count: (sites, c) => {
    const kinds = new Map(sites.map((s) => [category(s), s.shape[1]!]));
    const train = sites.reduce((n, { shape: [, into] }) => n + into! + entries(into!, c), 0);
    const own = sites.reduce((n, { shape: [out, into] }) => n + out! * into! + into!, 0);
    return { train, stored: train + own + [...kinds.values()].reduce((n, into) => n + into * into + 2 * entries(into, c), 0) };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
