// SPT, sensitivity-aware tuning: a budget of parameters goes where the task is most sensitive, as single entries or as whole LoRAs.
//   s_i = Σ over batches of (∂L/∂θ_i)²;   the τ largest of all weights together are selected; then for each weight
//   matrix with ≥ r(in + out)/5 selected: W' = W + B A of rank r;   vector with ≥ length/5 selected: all of it;   else: its selected entries
//   τ is the largest for which the total meets the budget
// He et al. 2023, arXiv 2303.08566, §3. The variant with adapters in the place of LoRA is left out. Longer than 80 lines: it holds three ways to
// tune a weight, and the budget that chooses among them.
import { square } from '../../core/ops/map.ts';
import { sparseAdd } from '../../core/ops/sparse.ts';
import { size } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { rankFits } from '../check.ts';
import { kaiming, zeros } from '../reparameterized/lycoris.ts';
import { dataOf, scoreSums } from '../sensitivity.ts';
import type { Site } from '../site.ts';
import { dense } from './dense.ts';
import { budget, type Chosen, type ChosenConfig, choose, type Sparse, sparse, sparseAt } from './sparse.ts';

export interface SptConfig extends ChosenConfig {
  readonly rank: number; // of a matrix that is sensitive all over
  readonly batches: number; // gradients are of so many, at most
}
type Spt = Partial<Sparse> & { A?: Tensor; B?: Tensor; delta?: Tensor };

/** What a weight gets for `selected` of its entries: how it is tuned, and how many numbers that trains. */
function share(
  { shape }: Pick<Site<'weight'>, 'shape'>,
  selected: number,
  { rank }: SptConfig,
): { how: 'none' | 'sparse' | 'whole'; train: number } {
  if (selected === 0) return { how: 'none', train: 0 };
  const whole = shape.length === 2 ? rank * (shape[0]! + shape[1]!) : size(shape);
  return selected >= whole / 5 ? { how: 'whole', train: whole } : { how: 'sparse', train: selected };
}
const total = (sites: readonly Site<'weight'>[], chosen: Chosen, c: SptConfig): number =>
  sites.reduce((n, s) => n + share(s, chosen.get(s.path)?.length ?? 0, c).train, 0);

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
    if (site.shape.length === 2) rankFits('spt', site, c.rank);
  },
  prepare: async (sites, c, env) => {
    const k = budget('spt', sites, c);
    const { batches, loss } = dataOf('spt', env);
    const scores = await scoreSums('spt', sites, env, batches.slice(0, c.batches), (m, b, gradients) => gradients(loss(m, b)).map(square));
    for (let tau = k; tau >= 1; tau = Math.min(tau - 1, Math.floor(0.98 * tau))) {
      const chosen = choose(sites, scores, tau);
      if (total(sites, chosen, c) <= k) return chosen;
    }
    throw new RangeError(
      `spt: even one selected entry costs more than the ${k} scalars of the budget; raise the density, or lower the rank`,
    );
  },
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
