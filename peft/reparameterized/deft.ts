// DEFT: a small subspace of a weight's outputs is emptied and filled anew.
//   W' = W − P relu(P)ᵀ W + s·P R,   P ∈ ℝ^{out×r} ~ N(0, 0.02²),   R ∈ ℝ^{r×in} = relu(P)ᵀ W / s at the start, so that W' = W
//   `decomposition: 'qr'`: W' = W − Q Qᵀ W + s·Q R with P = Q T, Q's columns orthonormal: what is taken out is a projection of W
//   `removal`: without R, so that the subspace is only emptied (PaRa)
// As built in PEFT 0.21 (DEFT). It stands on the weight, which both halves multiply. Q is computed in every step (householder.ts), and P trained.
import { relu } from '../../core/ops/map.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { rankFits } from '../check.ts';
import { orthonormalAsLapack, product, transposed } from '../linalg.ts';
import { orthonormalColumns } from './householder.ts';

export interface DeftConfig {
  readonly rank: number;
  readonly alpha: number | null; // s = α/r, or 1
  readonly removal: boolean; // no R
  readonly decomposition: 'relu' | 'qr';
}
type Deft = { P: Tensor; R: Tensor };
const scale = ({ alpha, rank }: DeftConfig): number => (alpha === null ? 1 : alpha / rank);
function changed(w: Tensor, { P, R }: Deft, c: DeftConfig): Tensor {
  const [left, right] = c.decomposition === 'qr' ? both(orthonormalColumns(P)) : [P, relu(P)]; // [out, r]
  const taken = right.T.matmul(w); // [r, in]
  return w.add(left.matmul(c.removal ? taken.neg() : R.mul(scale(c)).sub(taken)));
}
const both = (q: Tensor): [Tensor, Tensor] => [q, q];

/** Count: r(in + out) for each layer, r·out without R. */
export const deft = defineMethod<'weight', DeftConfig, Deft>({
  name: 'deft',
  family: 'reparameterized',
  paper: 'https://huggingface.co/docs/peft/package_reference/deft',
  at: 'weight',
  defaults: { rank: 8, alpha: null, removal: false, decomposition: 'relu', where: ['q.weight', 'v.weight'] },
  takes: { alpha: [null, Number], decomposition: ['relu', 'qr'] },
  readsWeight: true,
  check: (site, { rank, alpha }) => {
    if (site.shape.length !== 2) throw new RangeError(`deft: ${site.path} is a vector; DEFT changes matrices`);
    rankFits('deft', site, rank);
    if (alpha !== null && !(alpha > 0)) throw new RangeError(`deft: alpha ${alpha} must be positive, or null for a scale of 1`);
  },
  init: ({ shape: [out, into] }, c, r, { weight }) => {
    const p = r.normal(out! * c.rank, 0.02);
    const right = c.decomposition === 'qr' ? orthonormalAsLapack(p, out!, c.rank) : p.map((v) => Math.max(v, 0)); // [out, r]
    const taken = product(transposed(right, out!, c.rank), weight(), c.rank, out!, into!).map((v) => v / scale(c));
    return { train: { P: param(p, [out!, c.rank]), ...(c.removal ? {} : { R: param(taken, [c.rank, into!]) }) } };
  },
  around: (call, p, c) => (ctx) => changed(call(ctx), p, c),
  fold: ({ weight, bias }, p, c) => ({ weight: changed(weight, p, c), bias }),
  count: (sites, { rank, removal }) => {
    const train = sites.reduce((n, { shape: [out, into] }) => n + rank * (out! + (removal ? 0 : into!)), 0);
    return { train, stored: train };
  },
  startsAsBase: ({ removal }) => (removal ? 'no' : 'close'), // the same is taken out and put in, up to rounding of R
});
