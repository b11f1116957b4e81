// MiCA: LoRA inside the directions that the weight uses least: B is fixed there, only A is trained.
//   y = W x + b + s·B A drop(x),   W = U S Vᵀ,   B = the r columns of U with the smallest singular values,   A = 0 at the start
// arXiv 2604.01694, as built in PEFT. The base stays whole: A = 0 already starts as the base.
import { leaf, param } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { svd } from '../linalg.ts';
import { checkUpdate, type Factors, type UpdateConfig, update } from './lora.ts';

/** Count: r·in for each layer; stored besides: B. */
export const mica = defineMethod<'linear', UpdateConfig, Factors>({
  name: 'mica',
  family: 'reparameterized',
  paper: 'arXiv:2604.01694',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, where: ['q', 'v'] },
  readsWeight: true,
  check: checkUpdate('mica'),
  init: ({ shape: [out, into] }, { rank }, _, { weight }) => {
    const all = Math.min(out!, into!);
    const { u } = svd(weight(), out!, into!, all); // [out, all], largest first
    const least = Float64Array.from({ length: out! * rank }, (_, k) => u[Math.floor(k / rank) * all + all - rank + (k % rank)]!);
    return { train: { A: param(new Float32Array(rank * into!), [rank, into!]) }, fixed: { B: leaf(least, [out!, rank]) } };
  },
  ...update,
  count: (sites, c) => ({
    train: sites.reduce((n, { shape: [, into] }) => n + c.rank * into!, 0),
    stored: update.count(sites, c).stored,
  }),
  startsAsBase: () => 'close', // adds an exact zero
});
