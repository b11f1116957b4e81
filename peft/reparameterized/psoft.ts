// PSOFT: the weight's principal part is rotated inside its own subspace, and stretched a little.
//   y = W x + b + s·B (R − I) A drop(x),   s·B A = U_r S_r V_rᵀ,   A = V_rᵀ,   R = diag(β) C diag(α),   C = (I + Q)(I − Q)⁻¹
//   Q skew-symmetric r × r, 0 at the start;   α = β = 1;   s·B A may also be split evenly (`split: 'both'`)
// arXiv 2505.11235, as built in PEFT. The angles between what the columns of W_r do are kept, up to α and β. Count: r(r − 1)/2 + 2r.
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { svd } from '../linalg.ts';
import { cayley, identity, neumann, skew } from '../transforms.ts';
import { checkUpdate, dropped, type Factors, scaling, type UpdateConfig, update } from './lora.ts';
import { halved } from './residual.ts';

export interface PsoftConfig extends UpdateConfig {
  readonly split: 'output' | 'both'; // which side holds the singular values
  readonly neumann: number; // 0: exact Cayley; else terms of I + 2Q + 2Q² + … (PEFT: 5)
}
type Psoft = Factors & { Q: Tensor; before: Tensor; after: Tensor }; // Q [r(r − 1)/2], α and β [r]

/** R − I, [r, r] */
function change({ Q, before, after }: Psoft, { rank, neumann: terms }: PsoftConfig): Tensor {
  const q = skew(Q.reshape(1, -1), rank);
  const turn = (terms === 0 ? cayley(q.neg()) : neumann(q, terms)).reshape(rank, rank);
  return turn.mul(after.reshape(-1, 1)).mul(before).sub(identity(rank));
}

export const psoft = defineMethod<'linear', PsoftConfig, Psoft>({
  name: 'psoft',
  family: 'reparameterized',
  paper: 'arXiv:2505.11235',
  at: 'linear',
  defaults: { rank: 32, alpha: 32, rankStabilized: false, dropout: 0, split: 'output', neumann: 0, where: ['q', 'v'] },
  takes: { split: ['output', 'both'] },
  readsWeight: true,
  check: (site, c) => {
    checkUpdate('psoft')(site, c);
    if (c.rank < 2) throw new RangeError(`psoft: rank ${c.rank} at ${site.path} leaves no plane to rotate in; take 2 or more`);
    if (c.neumann !== 0 && !(Number.isInteger(c.neumann) && c.neumann >= 4))
      throw new RangeError(`psoft: neumann ${c.neumann} must be 0 (exact) or 4 terms and more; PEFT takes 5`);
  },
  init: ({ shape: [out, into] }, c, _, { weight }) => {
    const { u, s, vt } = svd(weight(), out!, into!, c.rank);
    const { a, b } = c.split === 'both' ? halved(u, s, vt, scaling(c)) : { a: vt, b: u.map((v, k) => (v * s[k % c.rank]!) / scaling(c)) };
    const pairs = (c.rank * (c.rank - 1)) / 2;
    const ones = (): Tensor => param(new Float32Array(c.rank).fill(1), [c.rank], { decay: false });
    return {
      train: { Q: param(new Float32Array(pairs), [pairs], { decay: false }), before: ones(), after: ones() },
      fixed: { A: leaf(a, [c.rank, into!]), B: leaf(b, [out!, c.rank]) },
    };
  },
  around: (call, p, c, site) => (x, ctx) =>
    call(x, ctx).add(dropped(x, c, site, ctx).matmul(p.A.T).matmul(change(p, c).T).matmul(p.B.T).mul(scaling(c))),
  fold: ({ weight, bias }, p, c) => ({ weight: weight.add(p.B.matmul(change(p, c)).matmul(p.A).mul(scaling(c))), bias }),
  count: (sites, c) => {
    const train = sites.length * ((c.rank * (c.rank - 1)) / 2 + 2 * c.rank);
    return { train, stored: train + update.count(sites, c).stored };
  },
  startsAsBase: () => 'close', // the inverse of I is I up to rounding
});
