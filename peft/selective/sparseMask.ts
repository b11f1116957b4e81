// A sparse mask: training moves k chosen entries of a weight and no others.
//   W' = W + S,   S zero except for k values at fixed places, zero at first
// Places by magnitude: the smallest |W| as in PaFi (Liao et al. 2023, arXiv 2305.16742, §3), or the largest as in SHiRA's WM
// mask (Bhardwaj et al. 2024, arXiv 2406.13175, §3); random places are both papers' baseline. Only values and places are kept,
// never a dense copy: k trained scalars, and besides them one column for each and where each row starts (CSR).
import { sparseAdd } from '../../core/ops/sparse.ts';
import { size } from '../../core/shape.ts';
import { type Data, param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between } from '../check.ts';
import { largest, placesAt } from '../select.ts';

export interface SparseMaskConfig {
  readonly density: number; // share of each weight's entries that is trained, rounded to whole entries, at least one
  readonly by: 'largest' | 'smallest' | 'random'; // |W|
}
const entries = (shape: readonly number[], { density }: SparseMaskConfig): number => Math.max(1, Math.round(density * size(shape)));
const magnitude = (w: Data): Float64Array => Float64Array.from(w, Math.abs);

export const sparseMask = defineMethod<'weight', SparseMaskConfig, { values: Tensor; start: Tensor; col: Tensor }>({
  name: 'sparseMask',
  family: 'selective',
  paper: 'arXiv:2305.16742',
  at: 'weight',
  defaults: { density: 0.01, by: 'smallest', where: ['q.weight', 'v.weight'] },
  takes: { by: ['largest', 'smallest', 'random'] },
  readsWeight: true,
  check: (site, { density }) => between('sparseMask', `density at ${site.path}`, density, Number.MIN_VALUE, 1, true),
  init: ({ shape }, c, r, { weight }) => {
    const k = entries(shape, c);
    const places =
      c.by === 'random'
        ? r.permutation(size(shape)).slice(0, k)
        : largest([c.by === 'largest' ? magnitude(weight()) : magnitude(weight()).map((v) => -v)], k)[0]!;
    return { train: { values: param(new Float32Array(k), [k]) }, fixed: { ...placesAt(places, shape) } };
  },
  around: (call, p) => (ctx) => sparseAdd(call(ctx), p, p.values),
  fold: ({ weight, bias }, p) => ({ weight: sparseAdd(weight, p, p.values), bias }),
  count: (sites, c) => {
    const train = sites.reduce((n, s) => n + entries(s.shape, c), 0);
    const rows = sites.reduce((n, s) => n + size(s.shape.slice(0, -1)) + 1, 0);
    return { train, stored: 2 * train + rows }; // values, columns, row starts
  },
  startsAsBase: () => 'bitwise',
});
