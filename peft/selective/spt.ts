// SPT, sensitivity-aware tuning: a budget of parameters goes where the task is most sensitive, as single entries or as whole LoRAs.
//   s_i = Σ over batches of (∂L/∂θ_i)²;   the τ largest of all weights together are selected; then for each weight
//   matrix with ≥ r(in + out)/5 selected: W' = W + B A of rank r;   vector with ≥ length/5 selected: all of it;   else: its selected entries
//   τ is the largest for which the total meets the budget
// He et al. 2023, arXiv 2303.08566, §3. The variant with adapters in the place of LoRA is left out. The choice: sptBudget.ts.
import { sparseAdd } from '../../core/ops/sparse.ts';
import { size } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { rankFits, wholeNumber } from '../check.ts';
import { kaiming, zeros } from '../reparameterized/lycoris.ts';
import { dense } from './dense.ts';
import { budget, type Chosen, type Sparse, sparse, sparseAt } from './sparse.ts';
import { chosenWithin, type SptConfig, share, total } from './sptBudget.ts';

type Spt = Partial<Sparse> & { A?: Tensor; B?: Tensor; delta?: Tensor };

const change = (w: Tensor, p: Spt): Tensor => {
  if (p.delta !== undefined) return w.add(p.delta);
  return p.B === undefined ? sparseAdd(w, { start: p.start!, col: p.col! }, p.values!) : w.add(p.B.matmul(p.A!));
};

/** By default half a percent of all weights of the blocks, 8 batches, rank 8. Count: at most ⌊ρN⌋ − reserved; exactly, once prepared. */
export const spt = defineMethod<'weight', SptConfig, Spt, null, Chosen>({
  name: 'spt',
  family: 'selective',
  paper: 'arXiv:2303.08566',
  at: 'weight',
  defaults: { density: 0.005, reserved: 0, rank: 8, batches: 8, where: /\bblocks\./ },
  check: (site, c) => {
    sparse('spt').check(site, c);
    wholeNumber('spt', 'batches', c.batches);
    if (site.shape.length === 2) rankFits('spt', site, c.rank);
  },
  prepare: chosenWithin,
  init: (site, c, r, { prepared }) => {
    const places = prepared.get(site.path) ?? [];
    const { how } = share(site, places.length, c);
    const [out, into] = site.shape as [number, number];
    if (how === 'none') return null;
    if (how === 'sparse') return sparseAt(places, site.shape);
    if (site.shape.length === 2) return { train: { A: kaiming([c.rank, into], r), B: zeros([out, c.rank]) } };
    return { train: dense(site) };
  },
  around: (call, p) => (ctx) => change(call(ctx), p),
  fold: ({ weight, bias }, p) => ({ weight: change(weight, p), bias }),
  count: (sites, c, prepared) => {
    if (!prepared) return { train: budget('spt', sites, c), stored: sparse('spt').count(sites, c).stored };
    const train = total(sites, prepared, c);
    const places = sites.reduce((n, s) => {
      const { how, train: k } = share(s, prepared.get(s.path)?.length ?? 0, c);
      return n + (how === 'sparse' ? k + size(s.shape.slice(0, -1)) + 1 : 0);
    }, 0);
    return { train, stored: train + places };
  },
  startsAsBase: () => 'close', // adds exact zeros
});
