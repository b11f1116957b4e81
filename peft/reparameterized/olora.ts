// OLoRA: LoRA that starts from an orthonormal basis of the weight's columns; the base keeps the rest.
//   W = Q R,   B = Q[:, :r],   A = R[:r, :],   W_res = W − s·B A,   y = W_res x + b + s·B A drop(x)
// Büyükakyüz 2024, arXiv 2406.01775, §3. The first r columns of Q are an orthonormal basis of the first r columns of W, and A = Bᵀ W.
import { defineMethod } from '../attach.ts';
import { orthonormal, product, transposed } from '../linalg.ts';
import { type Factors, type UpdateConfig, update } from './lora.ts';
import { checkTaken, takenOut } from './residual.ts';

export const olora = defineMethod<'linear', UpdateConfig, Factors>({
  name: 'olora',
  family: 'reparameterized',
  paper: 'arXiv:2406.01775',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, where: ['q', 'v'] },
  readsWeight: true,
  check: checkTaken('olora'),
  init: (site, c, _, given) => {
    const [out, into] = site.shape as [number, number];
    const w = given.weight();
    const first = Float64Array.from({ length: out * c.rank }, (_, k) => w[Math.floor(k / c.rank) * into + (k % c.rank)]!);
    const b = orthonormal(first, out, c.rank);
    return takenOut(w, product(transposed(b, out, c.rank), w, c.rank, out, into), b, site, c);
  },
  ...update,
  startsAsBase: () => 'close', // W_res + s·B A = W up to rounding
});
